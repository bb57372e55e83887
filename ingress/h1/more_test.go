package h1

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Writes of every size over TLS, which takes one record at a time.
func TestWriteOverTLS(t *testing.T) {
	cert, roots := certificate(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 20<<10)
	addr := listen(t, func(c net.Conn) {
		(&Server{}).ServeConn(context.Background(), tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}),
			http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var n int
				fmt.Sscan(r.URL.RawQuery, &n)
				if r.URL.Path == "/known" {
					w.Header().Set("Content-Length", fmt.Sprint(n))
				}
				if k, err := w.Write(body[:n]); k != n || err != nil {
					t.Errorf("wrote %d of %d, %v", k, n, err)
				}
			}))
	})
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer tr.CloseIdleConnections()
	for _, path := range []string{"/known", "/unknown"} {
		for _, n := range []int{0, 1, bufferSize - 7, bufferSize, 5 * bufferSize, len(body)} {
			req, _ := http.NewRequest("GET", fmt.Sprintf("https://%s%s?%d", addr, path, n), nil)
			resp, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Equal(got, body[:n]) {
				t.Errorf("%s of %d: %d bytes arrived, %v", path, n, len(got), err)
			}
		}
	}
}

// A limit on bodies holds for those that do not say how long they are.
func TestMaxBodyBytes(t *testing.T) {
	addr := serve(t, &Server{MaxBodyBytes: 10}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var merr *http.MaxBytesError
		if !errors.As(err, &merr) || len(b) > 10 {
			t.Errorf("read %q, %v", b, err)
		}
		if n := r.Body.(interface{ BytesRead() int64 }).BytesRead(); n < 11 {
			t.Errorf("counted %d bytes", n)
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}))
	got := talk(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n012345\r\n6\r\n012345\r\n0\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 413 ") || !strings.Contains(got, "\r\nConnection: close\r\n") {
		t.Errorf("got %q", got)
	}
}

// An answer that ends with the connection must not look whole when it is cut off.
func TestAbortUntilClose(t *testing.T) {
	sent := make(chan struct{})
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		<-sent
		panic(http.ErrAbortHandler)
	}))
	p := newRawPeer(t, dial(t, addr))
	p.send("GET / HTTP/1.0\r\n\r\n")
	p.head()
	p.expect("half")
	close(sent)
	if _, err := p.in.ReadByte(); err == nil || err == io.EOF {
		t.Errorf("the end looks plain: %v", err)
	}
}

// A panic is told, with where it was; an abort is not.
func TestPanicIsLogged(t *testing.T) {
	for _, c := range []struct {
		panic any
		want  bool
	}{{"broken", true}, {fmt.Errorf("x: %w", http.ErrAbortHandler), false}} {
		var out bytes.Buffer
		s := &Server{Log: slog.New(slog.NewTextHandler(&out, nil))}
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.ServeConn(context.Background(), server, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(c.panic) }))
		}()
		io.WriteString(client, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		<-done
		client.Close()
		if got := out.String(); strings.Contains(got, "more_test.go") != c.want {
			t.Errorf("panic(%v): log %q", c.panic, got)
		}
	}
}

// Whoever wants to splice an upgraded connection takes it.
func TestTakeUpgraded(t *testing.T) {
	cc, p := connect(t, ClientOptions{})
	go func() {
		p.head()
		p.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nahead")
	}()
	ctx, cancel := context.WithCancel(context.Background())
	req := request(t, "GET", "").WithContext(ctx)
	req.Header.Set("Upgrade", "x")
	resp, err := cc.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	u := resp.Body.(*Upgraded)
	c, ahead := u.Take()
	got := make([]byte, 5)
	n := copy(got, ahead)
	if _, err := io.ReadFull(c, got[n:]); string(got) != "ahead" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	cancel()
	u.Close()
	p.send("x")
	if _, err := io.ReadFull(c, got[:1]); err != nil {
		t.Errorf("what was taken was closed: %v", err)
	}
	c.Close()
}

// A Write after the handler has returned does nothing, to nobody's answer.
func TestWriteTooLate(t *testing.T) {
	var first http.ResponseWriter
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if first == nil {
			first = w
			return
		}
		if _, err := first.Write([]byte("late")); err == nil {
			t.Error("written to an answer that is over")
		}
		first.WriteHeader(500)
		if err := http.NewResponseController(first).Flush(); err == nil {
			t.Error("flushed an answer that is over")
		}
		io.WriteString(w, "second")
	}))
	got := talk(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	if strings.Contains(got, "late") || !strings.HasSuffix(got, "second") {
		t.Errorf("got %q", got)
	}
}
