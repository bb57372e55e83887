package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/ingress/upstream"
)

func TestBodiesBothWays(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		t.Run(fmt.Sprint("foreign=", foreign), func(t *testing.T) { testBodies(t, foreign) })
	}
}

func testBodies(t *testing.T, foreign bool) {
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("X-Length", fmt.Sprint(r.ContentLength, r.TransferEncoding))
		_, _ = io.Copy(w, r.Body)
	})), toA())
	if foreign {
		e.serveForeign()
	}
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	for _, c := range []struct {
		name, method string
		body         io.Reader
		want, length string
	}{
		{"none", "POST", nil, "", "0 []"},
		{"known", "POST", strings.NewReader("hello"), "hello", "5 []"},
		{"unknown", "PUT", io.MultiReader(strings.NewReader("hello")), "hello", "-1 [chunked]"},
		{"large", "POST", strings.NewReader(big), big, "1048576 []"},
		{"large and unknown", "POST", io.MultiReader(strings.NewReader(big)), big, "-1 [chunked]"},
		{"GET with body", "GET", strings.NewReader("hello"), "hello", "5 []"},
	} {
		res, body := e.do(e.request(c.method, "/", c.body))
		if res.StatusCode != 200 || body != c.want || res.Header.Get("X-Length") != c.length {
			t.Errorf("%s: %d, %d bytes, length %s", c.name, res.StatusCode, len(body), res.Header.Get("X-Length"))
		}
	}
	x := e.last(6)
	if x.Received != 5 || x.Sent != 5 {
		t.Errorf("record: %d in, %d out", x.Received, x.Sent)
	}
}

func TestAnswersWithoutBody(t *testing.T) {
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/204":
			w.WriteHeader(204)
		case "/304":
			w.WriteHeader(304)
		case "/head":
			w.Header().Set("Content-Length", "12345")
		case "/empty":
		}
	})), toA())
	for _, c := range []struct {
		method, path, length string
		status               int
	}{
		{"GET", "/204", "", 204}, {"GET", "/304", "", 304}, {"HEAD", "/head", "12345", 200}, {"GET", "/empty", "0", 200}, {"HEAD", "/204", "", 204},
	} {
		res, body := e.do(e.request(c.method, c.path, nil))
		if res.StatusCode != c.status || body != "" || res.Header.Get("Content-Length") != c.length || res.TransferEncoding != nil {
			t.Errorf("%s %s: %d, length %q, %v", c.method, c.path, res.StatusCode, res.Header.Get("Content-Length"), res.TransferEncoding)
		}
	}
}

func TestStreamIsFlushedAsItComes(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "application/octet-stream", "known length"} {
		for _, foreign := range []bool{false, true} {
			t.Run(fmt.Sprint(kind, foreign), func(t *testing.T) { testStream(t, kind, foreign) })
		}
	}
}

func testStream(t *testing.T, kind string, foreign bool) {
	step := make(chan struct{})
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		if kind == "known length" {
			w.Header().Set("Content-Length", "10")
		} else {
			w.Header().Set("Content-Type", kind)
			w.(http.Flusher).Flush()
			<-step
		}
		for range 5 {
			_, _ = io.WriteString(w, "x\n")
			w.(http.Flusher).Flush()
			<-step
		}
	})), toA())
	if foreign {
		e.serveForeign()
	}
	res, err := client.Do(e.request("GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if kind != "known length" {
		step <- struct{}{} // the header has come before any byte of the body
	}
	in := bufio.NewReader(res.Body)
	for range 5 {
		if line, err := in.ReadString('\n'); err != nil || line != "x\n" {
			t.Fatalf("%q, %v", line, err)
		}
		step <- struct{}{}
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
}

func TestTrailersBothWays(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
		w.(http.Flusher).Flush()
		w.Header().Set("X-Sum", r.Trailer.Get("X-Client"))
		w.Header().Set(http.TrailerPrefix+"X-Late", "2")
	}
	for name, conf := range map[string]*upstream.Config{"h1": backend(t, h), "h2": h2cBackend(t, http.HandlerFunc(h))} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t, one(conf), toA())
			h2 := e.serveTLS()
			for _, front := range []struct {
				c   *http.Client
				url string
			}{{client, e.url}, {h2, e.h2url}} {
				pr, pw := io.Pipe()
				req, _ := http.NewRequest("POST", front.url, pr)
				req.Trailer = http.Header{"X-Client": nil}
				go func() {
					_, _ = io.WriteString(pw, "hello")
					req.Trailer.Set("X-Client", "1")
					pw.Close()
				}()
				res, err := front.c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(b) != "hello" || res.Trailer.Get("X-Sum") != "1" || res.Trailer.Get("X-Late") != "2" {
					t.Errorf("%s: %q, %v, trailers %v", res.Proto, b, err, res.Trailer)
				}
			}
		})
	}
}

func TestTrailersOfServersThatReplaceTheMap(t *testing.T) {
	// As quic-go's does.
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, r.Trailer.Get("X-Sum")+r.Trailer.Get("Content-Length"))
	})), toA())
	r := httptest.NewRequest("POST", "/", nil)
	r.ProtoMajor, r.ContentLength = 3, -1
	r.Trailer = http.Header{"X-Sum": nil, "Content-Length": nil}
	r.Body = io.NopCloser(&atEnd{strings.NewReader("body"), func() { r.Trailer = http.Header{"X-Sum": {"1"}, "Content-Length": {"2"}} }})
	w := httptest.NewRecorder()
	e.serve(w, r)
	if w.Code != 200 || w.Body.String() != "1" {
		t.Errorf("%d, backend saw trailer %q", w.Code, w.Body)
	}
}

type atEnd struct {
	io.Reader
	f func()
}

func (a *atEnd) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err == io.EOF {
		a.f()
	}
	return n, err
}

func TestNoContentTypeIsMadeUp(t *testing.T) {
	e := newEdge(t, one(rawBackend(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>")
	})), toA())
	c := e.serveTLS()
	for _, url := range []string{e.url, e.h2url} {
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.Header["Content-Type"] != nil {
			t.Errorf("%s: %v", res.Proto, res.Header)
		}
	}
}

func TestInterimAnswersArePassedOn(t *testing.T) {
	e := newEdge(t, one(backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(103)
		w.Header().Del("Link")
		w.Header().Set("X-Final", "1")
		_, _ = io.WriteString(w, "done")
	})), toA())
	c, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	all, _ := io.ReadAll(c)
	first, rest, _ := strings.Cut(string(all), "\r\n\r\n")
	if !strings.HasPrefix(first, "HTTP/1.1 103") || !strings.Contains(first, "Link: </style.css>; rel=preload") {
		t.Errorf("interim answer: %q", first)
	}
	final, body, _ := strings.Cut(rest, "\r\n\r\n")
	if !strings.HasPrefix(final, "HTTP/1.1 200") || strings.Contains(final, "Link:") || !strings.Contains(final, "X-Final: 1") || body != "done" {
		t.Errorf("final answer: %q %q", final, body)
	}
}

func TestBodylessHTTP3RequestStaysBodyless(t *testing.T) {
	for _, c := range []struct {
		method, body, want string
		has                bool
	}{
		{"GET", "", "", false}, {"GET", "payload", "payload", true}, {"DELETE", "", "", false}, {"POST", "", "", true},
	} {
		r := &http.Request{Method: c.method, ProtoMajor: 3, ContentLength: -1, Body: io.NopCloser(strings.NewReader(c.body))}
		b, err := bodyOf(r)
		if err != nil || (b != nil) != c.has {
			t.Errorf("%s %q: body %v, %v", c.method, c.body, b, err)
			continue
		}
		if b != nil {
			if all, _ := io.ReadAll(b); string(all) != c.want {
				t.Errorf("%s: body came out as %q", c.method, all)
			}
		}
	}
}
