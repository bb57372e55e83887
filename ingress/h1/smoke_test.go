package h1

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestSmoke(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Server{}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		t.Logf("%s %s %q %v %v", r.Method, r.URL, b, err, r.Header)
		if r.URL.Path == "/stream" {
			for range 3 {
				io.WriteString(w, "part ")
				w.(http.Flusher).Flush()
			}
			return
		}
		io.WriteString(w, strings.Repeat("x", len(b)))
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.ServeConn(context.Background(), c, h)
		}
	}()
	u := "http://" + l.Addr().String()
	for _, n := range []int{0, 3, 100, 20000, 300000} {
		resp, err := http.Post(u+"/a?b=c", "text/plain", strings.NewReader(strings.Repeat("y", n)))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		t.Log(resp, len(b), err)
		resp, err = http.Post(u+"/stream", "text/plain", struct{ io.Reader }{strings.NewReader(strings.Repeat("y", n))})
		if err != nil {
			t.Fatal(err)
		}
		b, err = io.ReadAll(resp.Body)
		t.Log(resp, len(b), err)
	}
}

func TestSmokeClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		t.Logf("%s %s %d %v %v", r.Method, r.URL, len(b), err, r.Header)
		w.Write(b)
	})}
	go srv.Serve(l)
	defer srv.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cc := NewClientConn(c, ClientOptions{})
	defer cc.Close()
	for _, n := range []int{0, 3, 100, 20000, 300000} {
		for _, chunked := range []bool{false, true} {
			req, _ := http.NewRequest("POST", "http://h/a?b=c", strings.NewReader(strings.Repeat("y", n)))
			if chunked {
				req.ContentLength = -1
				req.Body = io.NopCloser(struct{ io.Reader }{req.Body})
			}
			resp, err := cc.RoundTrip(req)
			if err != nil {
				t.Fatal(n, chunked, err)
			}
			b, err := io.ReadAll(resp.Body)
			t.Log(resp.Status, resp.Header, len(b), err, cc.Reusable())
			if len(b) != n || !cc.Reusable() {
				t.Fatal("not reusable", n, chunked)
			}
		}
	}
}
