//lint:file-ignore SA1019 x/net/http2 is the rival, and the peer that others bring

package h2

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

const benchBody = "{\"items\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30]}"

var (
	jsonType    = []string{"application/json"}
	benchLength = []string{strconv.Itoa(len(benchBody))}
	bulk        = make([]byte, 1<<20)
)

func benchHandler(w http.ResponseWriter, r *http.Request) {
	switch h := w.Header(); r.URL.Path {
	case "/bulk":
		w.Write(bulk)
	default:
		h["Content-Type"] = jsonType
		h["Content-Length"] = benchLength
		io.WriteString(w, benchBody)
	}
}

// servers are this package's and x/net's, over TLS.
func servers(t testing.TB) (ours, theirs string) {
	ours = secure(t, &Server{}, benchHandler)
	xs := &http2.Server{MaxConcurrentStreams: 250}
	base := &http.Server{}
	cfg := &tls.Config{Certificates: []tls.Certificate{certificate()}, NextProtos: []string{"h2"}}
	theirs = listen(t, func(c net.Conn) {
		tc := tls.Server(c, cfg)
		defer tc.Close()
		if tc.Handshake() == nil {
			xs.ServeConn(tc, &http2.ServeConnOpts{Handler: http.HandlerFunc(benchHandler), BaseConfig: base})
		}
	})
	return ours, theirs
}

// loader is a client that costs little: it writes requests that it has made before,
// and counts the ends of streams.
type loader struct {
	c       net.Conn
	block   []byte
	next    uint32
	streams int
}

func newLoader(b testing.TB, addr, path string, streams int) *loader {
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		b.Fatal(err)
	}
	p := greet(b, c, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	fields := with(getRoot[:6], ":path", path, "user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
		"accept", "application/json", "accept-language", "en-US,en;q=0.5", "accept-encoding", "gzip, deflate, br",
		"cookie", "session=0123456789abcdef0123456789abcdef")
	p.f.WriteWindowUpdate(0, 1<<30)
	p.wantStatus(p.open(true, fields...), "200")
	p.wantEnd(1)
	return &loader{c: c, block: p.block(fields...), next: 3, streams: streams}
}

// run asks for d, and returns how many requests were answered.
func (l *loader) run(d time.Duration) (n int, err error) {
	var out []byte
	ask := func() {
		out = appendFrameHeader(out, len(l.block), frameHeaders, flagEndHeaders|flagEndStream, l.next)
		out = append(out, l.block...)
		l.next += 2
	}
	for range l.streams {
		ask()
	}
	in := make([]byte, 256<<10)
	have, open := 0, l.streams
	for end := time.Now().Add(d); open > 0; {
		if len(out) > 0 {
			if _, err := l.c.Write(out); err != nil {
				return n, err
			}
			out = out[:0]
		}
		k, err := l.c.Read(in[have:])
		if err != nil {
			return n, err
		}
		have += k
		at, data := 0, 0
		for have-at >= frameHeaderLen {
			whole := frameHeaderLen + frameLength(in[at:])
			if have-at < whole {
				break
			}
			if in[at+3] == frameData {
				data += whole - frameHeaderLen
			}
			if in[at+3] <= frameHeaders && in[at+4]&flagEndStream != 0 {
				n++
				open--
				if time.Now().Before(end) {
					ask()
					open++
				}
			}
			at += whole
		}
		have = copy(in, in[at:have])
		if data > 0 {
			out = appendWindowUpdate(out, 0, int64(data))
		}
	}
	return n, nil
}

// BenchmarkServer compares with x/net's server, a quarter of a second each in turn.
// times is how many requests more are answered in the same time.
func BenchmarkServer(b *testing.B) {
	for _, c := range []struct {
		name           string
		path           string
		conns, streams int
	}{
		{"small/1", "/", 2, 1}, {"small/64", "/", 2, 64}, {"bulk/1", "/bulk", 2, 1}, {"bulk/64", "/bulk", 2, 64},
	} {
		b.Run(c.name, func(b *testing.B) {
			var addrs [2]string
			addrs[0], addrs[1] = servers(b)
			var done [2]int
			for range b.N {
				for i, addr := range addrs {
					var wg sync.WaitGroup
					var mu sync.Mutex
					for range c.conns {
						l := newLoader(b, addr, c.path, c.streams)
						wg.Go(func() {
							n, err := l.run(250 * time.Millisecond)
							l.c.Close()
							if err != nil {
								b.Error(err)
							}
							mu.Lock()
							done[i] += n
							mu.Unlock()
						})
					}
					wg.Wait()
				}
			}
			seconds := float64(b.N) / 4
			b.ReportMetric(float64(done[0])/seconds, "req/s")
			b.ReportMetric(float64(done[1])/seconds, "x/net-req/s")
			b.ReportMetric(float64(done[0])/float64(done[1]), "times")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkRapidReset is what a request costs that is reset at once.
func BenchmarkRapidReset(b *testing.B) {
	addr := plain(b, &Server{MaxResets: 1 << 30, MaxStreams: 1 << 20}, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	p := dial(b, addr)
	p.open(true, getRoot...) // fills the table
	block := p.block(getRoot...)
	b.ReportAllocs()
	b.ResetTimer()
	go io.Copy(io.Discard, p.c)
	var out []byte
	for i := range b.N {
		id := uint32(2*i + 3)
		out = appendFrameHeader(out, len(block), frameHeaders, flagEndHeaders|flagEndStream, id)
		out = append(out, block...)
		out = appendRSTStream(out, id, http2.ErrCodeCancel)
		if len(out) > 4096 || i == b.N-1 {
			if _, err := p.c.Write(out); err != nil {
				b.Fatal(err)
			}
			out = out[:0]
		}
	}
}

// heap is how much is in use.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestIdleMemory checks what a connection holds that rests.
func TestIdleMemory(t *testing.T) {
	const conns = 200
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var s Server
	addr := listen(t, func(c net.Conn) { s.ServeConn(ctx, c, http.HandlerFunc(benchHandler)) })
	peers := make([]*peer, conns)
	before := heap()
	for i := range peers {
		peers[i] = dial(t, addr)
		for range 3 {
			id := peers[i].open(true, getRoot...)
			peers[i].wantStatus(id, "200")
			peers[i].wantEnd(id)
		}
		c := peers[i].c
		peers[i] = &peer{c: c} // forget what the client itself holds
	}
	if per := (heap() - before) / conns; per > 32<<10 {
		t.Errorf("an idle connection holds %d bytes", per)
	} else {
		t.Logf("an idle connection holds %d bytes, the client's end included", per)
	}
	for _, p := range peers {
		p.c.Close()
	}
}
