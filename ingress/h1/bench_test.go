package h1

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// The request of a browser, and a small answer.
const (
	benchRequest = "GET /api/v1/items?page=2 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\r\nAccept: application/json\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef0123456789abcdef\r\n\r\n"
	benchBody    = "{\"items\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30]}"
)

func benchHandler(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = benchLength
	io.WriteString(w, benchBody)
}

var benchRequestBytes = []byte(benchRequest)

var jsonType, benchLength = []string{"application/json"}, []string{strconv.Itoa(len(benchBody))}

func ours(c net.Conn, h http.Handler) { (&Server{}).ServeConn(context.Background(), c, h) }

// theirs serves with net/http.
func theirs(t testing.TB, h http.Handler) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	t.Cleanup(func() { srv.Close(); wg.Wait() })
	return l.Addr().String()
}

// load sends requests for a while on so many connections and returns how many were
// answered a second.
func load(b *testing.B, addr string, conns int, d time.Duration) float64 {
	var wg sync.WaitGroup
	total := make([]int, conns)
	start := time.Now()
	for i := range conns {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			buf := make([]byte, 4096)
			req := []byte(benchRequest)
			for time.Since(start) < d {
				if _, err := c.Write(req); err != nil {
					b.Error(err)
					return
				}
				// The answer is small and comes at once: it ends with the body.
				for n := 0; ; {
					k, err := c.Read(buf[n:])
					if err != nil {
						b.Error(err)
						return
					}
					if n += k; n > len(benchBody) && string(buf[n-len(benchBody):n]) == benchBody {
						break
					}
				}
				total[i]++
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range total {
		sum += n
	}
	return float64(sum) / time.Since(start).Seconds()
}

// proxyHandler forwards over a pool of ClientConns.
type proxyHandler struct {
	addr string
	mu   sync.Mutex
	idle []*ClientConn
}

func (p *proxyHandler) take() (*ClientConn, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		cc := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		p.mu.Unlock()
		if cc.Reusable() {
			return cc, nil
		}
		cc.Close()
		p.mu.Lock()
	}
	p.mu.Unlock()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	return NewClientConn(c, ClientOptions{}), nil
}

func (p *proxyHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cc, err := p.take()
	if err != nil {
		w.WriteHeader(502)
		return
	}
	resp, err := cc.RoundTrip(r)
	if err != nil {
		cc.Close()
		w.WriteHeader(502)
		return
	}
	forward(w, resp)
	if cc.Free() {
		p.mu.Lock()
		p.idle = append(p.idle, cc)
		p.mu.Unlock()
	} else {
		cc.Close()
	}
}

func (p *proxyHandler) close() {
	for _, cc := range p.idle {
		cc.Close()
	}
}

func forward(w http.ResponseWriter, resp *http.Response) {
	h := w.Header()
	for k, v := range resp.Header {
		h[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	io.Copy(w, resp.Body)
	resp.Body.Close()
}

func transportHandler(tr *http.Transport, addr string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out := *r
		u := *r.URL
		u.Scheme, u.Host = "http", addr
		out.URL, out.RequestURI = &u, ""
		resp, err := tr.RoundTrip(&out)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		forward(w, resp)
	}
}

// BenchmarkAgainstNetHTTP prints requests a second as ratios of medians to those
// of net/http's Server and Transport, in turns. The clients run in the same
// process and take as much of it as either.
func BenchmarkAgainstNetHTTP(b *testing.B) {
	h := http.HandlerFunc(benchHandler)
	backend := listen(b, func(c net.Conn) { ours(c, h) })
	p := &proxyHandler{addr: backend}
	b.Cleanup(p.close)
	tr := &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}
	b.Cleanup(tr.CloseIdleConnections)
	for _, c := range []struct{ name, ours, theirs string }{
		{"server", listen(b, func(c net.Conn) { ours(c, h) }), theirs(b, h)},
		{"proxy", listen(b, func(c net.Conn) { ours(c, p) }), theirs(b, transportHandler(tr, backend))},
	} {
		for _, conns := range []int{1, 64} {
			b.Run(c.name+"/"+map[int]string{1: "1conn", 64: "64conns"}[conns], func(b *testing.B) {
				var mine, others []float64
				for b.Loop() {
					for range 5 {
						mine = append(mine, load(b, c.ours, conns, 200*time.Millisecond))
						others = append(others, load(b, c.theirs, conns, 200*time.Millisecond))
					}
				}
				slices.Sort(mine)
				slices.Sort(others)
				m, o := mine[len(mine)/2], others[len(others)/2]
				b.ReportMetric(m/o, "ratio")
				b.ReportMetric(m, "req/s")
				b.ReportMetric(o, "net/http-req/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// loopConn is a connection on which requests are at hand without a wait.
type loopConn struct {
	net.Conn
	left int
	rest []byte
}

func (c *loopConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		if c.left == 0 {
			return 0, io.EOF
		}
		c.left--
		c.rest = benchRequestBytes
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}
func (c *loopConn) Write(p []byte) (int, error)      { return len(p), nil }
func (c *loopConn) SetReadDeadline(time.Time) error  { return nil }
func (c *loopConn) SetWriteDeadline(time.Time) error { return nil }
func (c *loopConn) SetDeadline(time.Time) error      { return nil }
func (c *loopConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *loopConn) Close() error                     { return nil }

// BenchmarkServer is what a request costs beside the kernel.
func BenchmarkServer(b *testing.B) {
	b.ReportAllocs()
	(&Server{}).ServeConn(context.Background(), &loopConn{left: b.N}, http.HandlerFunc(benchHandler))
}

// answerConn answers every Write.
type answerConn struct {
	loopConn
	answer []byte
}

func (c *answerConn) Write(p []byte) (int, error) { c.rest = c.answer; return len(p), nil }

// BenchmarkClient is what a round trip costs beside the kernel.
func BenchmarkClient(b *testing.B) {
	b.ReportAllocs()
	cc := NewClientConn(&answerConn{answer: []byte("HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 21 Nov 2026 08:34:46 GMT\r\nContent-Type: application/json\r\nContent-Length: " + benchLength[0] + "\r\nConnection: keep-alive\r\n\r\n" + benchBody)}, ClientOptions{})
	req, _ := http.NewRequest("GET", "http://www.example.com/api/v1/items?page=2", nil)
	req.Header = http.Header{"User-Agent": {"Mozilla/5.0"}, "Accept": {"application/json"}, "X-Request-Id": {"0123456789abcdef"}}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req = req.WithContext(ctx)
	buf := make([]byte, 1024)
	for b.Loop() {
		resp, err := cc.RoundTrip(req)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := resp.Body.Read(buf); n != len(benchBody) || err != io.EOF {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseRequest(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var req http.Request
		var u url.URL
		if _, err := parseRequest(benchRequest, 7, 1<<10, &req, &u); err != nil {
			b.Fatal(err)
		}
	}
}
