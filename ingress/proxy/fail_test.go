package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
)

func TestTimeouts(t *testing.T) {
	hang := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/header":
			<-r.Context().Done()
		case "/body":
			_, _ = io.WriteString(w, "beginning")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
	}
	const soon = 50 * time.Millisecond
	for _, c := range []struct {
		name string
		rule Rule
		told string
	}{
		{"request", Rule{RequestTimeout: soon}, "50"},
		{"backend", Rule{BackendTimeout: soon}, "50"},
		{"both", Rule{RequestTimeout: time.Hour, BackendTimeout: soon}, "50"},
		{"request, backend off", Rule{RequestTimeout: soon, BackendTimeout: -1}, "50"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var told atomic.Value
			c.rule.Backends = toA().Backends
			e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
				told.Store(r.Header.Get("X-Envoy-Expected-Rq-Timeout-Ms"))
				hang(w, r)
			})), &c.rule)
			res, body := e.get("/header")
			if res.StatusCode != 504 || body != "upstream request timeout\n" {
				t.Errorf("before the answer: %d %q", res.StatusCode, body)
			}
			if x := e.last(1); x.Status != 504 || x.Flags != "UT" || x.Detail == "" {
				t.Errorf("record: %d %s %q", x.Status, x.Flags, x.Detail)
			}
			if told.Load() != c.told {
				t.Errorf("the backend was told %q ms, want %s", told.Load(), c.told)
			}
			if _, body, err := e.try(e.request("GET", "/body", nil)); err == nil || body != "beginning" {
				t.Errorf("within the answer: %q, %v: the client must not take it for whole", body, err)
			}
			if x := e.last(2); x.Status != 200 || x.Flags != "UT" || x.Sent != 9 {
				t.Errorf("record: %d %s, %d bytes", x.Status, x.Flags, x.Sent)
			}
		})
	}
}

func TestTimeoutsOfRules(t *testing.T) {
	for _, c := range []struct {
		request, backend time.Duration
		grpc             bool
		want             limits
	}{
		{0, 0, false, limits{header: DefaultTimeout}},
		{0, 0, true, limits{}},
		{-1, 0, false, limits{}},
		{0, -1, false, limits{}},
		{time.Second, 0, false, limits{request: time.Second}},
		{time.Second, 0, true, limits{request: time.Second}},
		{0, time.Second, false, limits{backend: time.Second}},
		{-1, time.Second, false, limits{backend: time.Second}},
		{2 * time.Second, time.Second, false, limits{request: 2 * time.Second, backend: time.Second}},
	} {
		if got := limitsOf(&Rule{RequestTimeout: c.request, BackendTimeout: c.backend}, c.grpc); got != c.want {
			t.Errorf("request %v, backend %v, gRPC %v: %+v, want %+v", c.request, c.backend, c.grpc, got, c.want)
		}
	}
}

func TestDefaultTimeoutCountsFromTheEndOfTheUpload(t *testing.T) {
	ended := new(exchangeContext)
	ended.Begin(t.Context())
	d := &deadline{ctx: ended, cause: errHeaderTimeout}
	b := &clientBody{src: strings.NewReader("upload")}
	b.begin(func() { d.start(time.Millisecond) })
	a := &attemptBody{b: b, from: new(http.Request), to: new(http.Request)}
	buf := make([]byte, 6)
	if _, err := io.ReadFull(a, buf); err != nil || d.alarm != nil {
		t.Fatalf("the time runs before the upload is over (%v)", err)
	}
	if _, err := a.Read(buf); err != io.EOF {
		t.Fatal(err)
	}
	<-ended.Done()
	if context.Cause(ended) != errHeaderTimeout {
		t.Errorf("cause %v", context.Cause(ended))
	}
}

func TestUpstreamThatFails(t *testing.T) {
	head := func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) }
	for _, c := range []struct {
		name    string
		backend func(net.Conn)
		status  int
		flags   string
		torn    bool
	}{
		{"closes at once", func(c net.Conn) { head(c) }, 503, "UC", false},
		{"resets", func(c net.Conn) { head(c); _ = c.(*net.TCPConn).SetLinger(0) }, 503, "UC", false},
		{"closes within a body of known length", func(c net.Conn) {
			head(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
		}, 200, "UC", true},
		{"closes within a chunked body", func(c net.Conn) {
			head(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n")
		}, 200, "UC", true},
		{"switches unasked", func(c net.Conn) {
			head(c)
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		}, 502, "UPE", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t, one(rawBackend(t, c.backend)), toA())
			// POST, so that nobody tries again.
			res, _, err := e.try(e.request("POST", "/", strings.NewReader("x")))
			if c.torn != (err != nil) {
				t.Errorf("client got %v, %v", res, err)
			}
			if x := e.last(1); x.Status != c.status || x.Flags != c.flags || x.Detail == "" {
				t.Errorf("record: %d %q %q, want %d %q", x.Status, x.Flags, x.Detail, c.status, c.flags)
			}
		})
	}
}

func TestClientThatLeaves(t *testing.T) {
	for _, path := range []string{"/header", "/body"} {
		t.Run(path, func(t *testing.T) {
			reached, gone := make(chan struct{}), make(chan struct{})
			e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
				if path == "/body" {
					_, _ = io.WriteString(w, "beginning")
					w.(http.Flusher).Flush()
				}
				close(reached)
				<-r.Context().Done()
				close(gone)
			})), toA())
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-reached; cancel() }()
			_, _, err := e.try(e.request("GET", path, nil).WithContext(ctx))
			if err == nil {
				t.Error("the client got an answer")
			}
			select {
			case <-gone:
			case <-time.After(10 * time.Second):
				t.Fatal("the backend's request was not reset")
			}
			want := 499
			if path == "/body" {
				want = 200
			}
			if x := e.last(1); x.Status != want || x.Flags != "DC" {
				t.Errorf("record: %d %s %q, want %d DC", x.Status, x.Flags, x.Detail, want)
			}
		})
	}
}

func TestClientThatLeavesWithinItsUpload(t *testing.T) {
	reached, got := make(chan struct{}), make(chan error, 1)
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		close(reached)
		_, err := io.Copy(io.Discard, r.Body)
		got <- err
	})), toA())
	c, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nshort")
	receive(t, reached)
	c.Close()
	if err := receive(t, got); err == nil {
		t.Error("the backend took a part of the body for the whole")
	}
	if x := e.last(1); x.Status != 499 || x.Flags != "DC" || x.Received != 5 {
		t.Errorf("record: %d %s, %d bytes, %q", x.Status, x.Flags, x.Received, x.Detail)
	}
}

func TestAnswerBeforeTheUploadIsOver(t *testing.T) {
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		b := make([]byte, 5)
		_, _ = io.ReadFull(r.Body, b)
		_, _ = w.Write(b)
		w.(http.Flusher).Flush()
		_, _ = io.Copy(w, r.Body)
	})), toA())
	pr, pw := io.Pipe()
	go func() { _, _ = io.WriteString(pw, "first") }()
	res, err := client.Do(e.request("POST", "/", pr))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b := make([]byte, 5)
	if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != "first" {
		t.Fatalf("while the upload lasts: %q, %v", b, err)
	}
	go func() { _, _ = io.WriteString(pw, " second"); pw.Close() }()
	rest, err := io.ReadAll(res.Body)
	if err != nil || string(rest) != " second" {
		t.Errorf("rest: %q, %v", rest, err)
	}
	if x := e.last(1); x.Received != 12 || x.Sent != 12 || x.Status != 200 || x.Flags != "" {
		t.Errorf("record: %+v", x)
	}
}

func TestRetriesOfStatus(t *testing.T) {
	long := strings.Repeat("x", replayLimit+1)
	for _, c := range []struct {
		name     string
		retry    *Retry
		fail     int // so many answers of code
		code     int
		body     string
		status   int
		attempts int
	}{
		{"recovers", &Retry{Codes: []int{500, 503}, Attempts: 3}, 2, 503, "", 200, 3},
		{"too often", &Retry{Codes: []int{503}, Attempts: 2}, 9, 503, "", 503, 3},
		{"another code", &Retry{Codes: []int{500}, Attempts: 3}, 1, 503, "", 503, 1},
		{"no attempts", &Retry{Codes: []int{503}}, 1, 503, "", 503, 1},
		{"not asked for", nil, 1, 503, "", 503, 1},
		{"with a body", &Retry{Codes: []int{503}, Attempts: 1}, 1, 503, "hello", 200, 2},
		{"with a body that is too long to keep", &Retry{Codes: []int{503}, Attempts: 1}, 1, 503, long, 503, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			var counts []string
			e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				mu.Lock()
				defer mu.Unlock()
				counts = append(counts, r.Header.Get("X-Envoy-Attempt-Count"))
				if string(b) != c.body {
					t.Errorf("attempt %d had a body of %d bytes", len(counts), len(b))
				}
				if len(counts) <= c.fail {
					w.WriteHeader(c.code)
				}
			})), &Rule{Backends: toA().Backends, Retry: c.retry})
			res, _ := e.do(e.request("POST", "/", strings.NewReader(c.body)))
			mu.Lock()
			defer mu.Unlock()
			if res.StatusCode != c.status || len(counts) != c.attempts || counts[len(counts)-1] != fmt.Sprint(c.attempts) {
				t.Errorf("got %d after attempts %v, want %d after %d", res.StatusCode, counts, c.status, c.attempts)
			}
			if x := e.last(1); x.Attempts != c.attempts || x.Status != c.status || x.Received != int64(len(c.body)) {
				t.Errorf("record: %d attempts, %d, %d bytes in", x.Attempts, x.Status, x.Received)
			}
		})
	}
}

func TestRetriesOfConnectionErrors(t *testing.T) {
	for _, c := range []struct {
		method   string
		retry    *Retry
		status   int
		attempts int32
	}{
		{"GET", &Retry{Attempts: 3}, 200, 3},
		{"PUT", &Retry{Attempts: 3}, 200, 3},
		{"POST", &Retry{Attempts: 3}, 503, 1}, // it may have been acted upon
		{"GET", &Retry{Attempts: 1}, 503, 2},
		{"PUT", nil, 503, 1},
	} {
		var n atomic.Int32
		e := newEdge(t, one(rawBackend(t, func(conn net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			b, _ := io.ReadAll(r.Body)
			if n.Add(1) <= 2 {
				_ = conn.(*net.TCPConn).SetLinger(0)
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
		})), &Rule{Backends: toA().Backends, Retry: c.retry})
		res, _ := e.do(e.request(c.method, "/", strings.NewReader("hello")))
		if res.StatusCode != c.status || n.Load() != c.attempts {
			t.Errorf("%s with %+v: got %d after %d attempts, want %d after %d", c.method, c.retry, res.StatusCode, n.Load(), c.status, c.attempts)
		}
	}
}

func TestRefusedConnectionTriesAnotherEndpoint(t *testing.T) {
	good := echoBackend(t)
	conf := clusterOf(upstream.HTTP1, closedPort(t), closedPort(t))
	conf.Endpoints = append(conf.Endpoints, good.Endpoints...)
	e := newEdge(t, one(conf), toA())
	for i := range 20 {
		if res, body := e.do(e.request("POST", "/", strings.NewReader("hello"))); res.StatusCode != 200 || parse(t, body).Body != "hello" {
			t.Fatalf("request %d: %d %s", i, res.StatusCode, body)
		}
	}
	e2 := newEdge(t, one(conf), &Rule{Backends: toA().Backends, Retry: &Retry{}})
	for range 20 {
		e2.get("/")
	}
	for _, x := range e2.records {
		if x.Attempts != 1 {
			t.Errorf("%d attempts, although retries are turned off", x.Attempts)
		}
	}
}

func TestRetriesEndWithTheRequestTimeout(t *testing.T) {
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) })),
		&Rule{Backends: toA().Backends, RequestTimeout: 80 * time.Millisecond, Retry: &Retry{Codes: []int{503}, Attempts: 1000, Backoff: time.Hour}})
	res, _ := e.get("/")
	if x := e.last(1); res.StatusCode != 504 || x.Flags != "UT" || x.Attempts != 1 {
		t.Errorf("got %d, record %s, %d attempts", res.StatusCode, x.Flags, x.Attempts)
	}
}

func TestRetryAfterBackendTimeout(t *testing.T) {
	var n atomic.Int32
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			<-r.Context().Done()
		}
	})), &Rule{Backends: toA().Backends, BackendTimeout: 50 * time.Millisecond, Retry: &Retry{Attempts: 1}})
	if res, _ := e.get("/"); res.StatusCode != 200 || n.Load() != 2 {
		t.Errorf("got %d after %d attempts", res.StatusCode, n.Load())
	}
}

func TestRetryOfAnUploadInFlight(t *testing.T) {
	// The first attempt is answered 503 while the client is still sending; the
	// second one gets all of the body nevertheless.
	var n atomic.Int32
	first := make(chan struct{})
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 1 {
			b := make([]byte, 5)
			_, _ = io.ReadFull(r.Body, b)
			w.WriteHeader(503)
			close(first)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})), &Rule{Backends: toA().Backends, Retry: &Retry{Attempts: 1, Codes: []int{503}}})
	pr, pw := io.Pipe()
	go func() {
		_, _ = io.WriteString(pw, "first")
		<-first
		_, _ = io.WriteString(pw, " second")
		pw.Close()
	}()
	res, body := e.do(e.request("PUT", "/", pr))
	if res.StatusCode != 200 || body != "first second" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

func TestBodyThatOutgrowsWhatIsKept(t *testing.T) {
	b := &clientBody{src: strings.NewReader(strings.Repeat("x", replayLimit+100)), keep: true}
	r := new(http.Request)
	first := &attemptBody{b: b, from: r, to: r}
	if _, err := io.ReadFull(first, make([]byte, 1000)); err != nil || !b.replayable() {
		t.Fatalf("after 1000 bytes: %v", err)
	}
	second := &attemptBody{b: b, from: r, to: r}
	if _, err := io.ReadFull(second, make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	// What the first one was reading when it was given up is too much to keep.
	if _, err := io.ReadFull(first, make([]byte, replayLimit-950)); err != nil {
		t.Fatal(err)
	}
	first.over.Store(true)
	if b.replayable() {
		t.Error("what is not kept cannot be sent again")
	}
	if n, err := second.Read(make([]byte, 10)); err != errAttemptOver || n != 0 {
		t.Errorf("the second attempt got %d bytes from the middle, %v", n, err)
	}
	if _, err := first.Read(nil); err != errAttemptOver {
		t.Errorf("an attempt that is over reads on: %v", err)
	}
}
