package h1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestContinue(t *testing.T) {
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refused" {
			w.WriteHeader(http.StatusForbidden)
			if _, err := io.ReadAll(r.Body); err == nil {
				t.Error("a body was read that the client was not told to send")
			}
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Write(b)
	}))
	p := newRawPeer(t, dial(t, addr))
	p.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
	p.expect("HTTP/1.1 100 Continue\r\n\r\n")
	p.send("hello")
	p.head()
	p.expect("hello")

	// Without a body there is nothing to wait for.
	p.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n")
	p.expect("HTTP/1.1 200 OK\r\n")
	p.head()

	// Refused unread: whether the body comes nobody knows, so the connection ends.
	p.send("POST /refused HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if h := p.head(); h[0] != "HTTP/1.1 403 Forbidden" || field(h, "Connection") != "close" {
		t.Errorf("answer %q", h)
	}
	if _, err := p.in.ReadByte(); err != io.EOF {
		t.Errorf("the connection is still open: %v", err)
	}
}

// A body that the handler leaves is read past, or the connection ends.
func TestUnreadBody(t *testing.T) {
	addr := serve(t, &Server{MaxDrain: 100 << 10}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.URL.Path)
	}))
	for _, c := range []struct {
		name, head string
		size       int
		again, say bool
	}{
		{"small", "Content-Length: 1000", 1000, true, false},
		{"at the limit", "Content-Length: 102400", 100 << 10, true, false},
		{"large", "Content-Length: 200000", 200000, false, true},
		{"chunked", "Transfer-Encoding: chunked", 50 << 10, true, false},
		{"chunked and large", "Transfer-Encoding: chunked", 300 << 10, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newRawPeer(t, dial(t, addr))
			p.send("POST /one HTTP/1.1\r\nHost: a\r\n" + c.head + "\r\n\r\n")
			h := p.head()
			if says := field(h, "Connection") == "close"; says != c.say {
				t.Errorf("answer %q", h)
			}
			p.expect("/one")
			body := strings.Repeat("x", c.size)
			if strings.HasPrefix(c.head, "T") {
				body = strings.Repeat("400\r\n"+strings.Repeat("x", 1<<10)+"\r\n", c.size>>10) + "0\r\n\r\n"
			}
			io.WriteString(p, body+"GET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
			rest, _ := io.ReadAll(p.in)
			if strings.HasSuffix(string(rest), "/two") != c.again || !c.again && len(rest) > 0 {
				t.Errorf("behind it %q", rest)
			}
		})
	}
}

// An idle connection ends at once when a drain begins, a busy one with its answer.
func TestDrain(t *testing.T) {
	ctx, drain := context.WithCancel(context.WithValue(context.Background(), ctxKey{}, "v"))
	defer drain()
	entered, leave := make(chan struct{}), make(chan struct{})
	addr := serveContext(t, ctx, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(ctxKey{}) != "v" {
			t.Error("a request's context does not have the values of the connection's")
		}
		if r.URL.Path == "/slow" {
			close(entered)
			<-leave
			if err := r.Context().Err(); err != nil {
				t.Errorf("the request ends with the drain: %v", err)
			}
			io.Copy(w, r.Body)
		}
	}))
	idle, fresh, busy := newRawPeer(t, dial(t, addr)), newRawPeer(t, dial(t, addr)), newRawPeer(t, dial(t, addr))
	idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	idle.head()
	busy.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
	<-entered
	drain()
	for name, p := range map[string]*rawPeer{"idle": idle, "fresh": fresh} {
		if _, err := p.in.ReadByte(); err != io.EOF {
			t.Errorf("%s connection: %v", name, err)
		}
	}
	close(leave)
	busy.send("hello")
	if h := busy.head(); field(h, "Connection") != "close" {
		t.Errorf("answer while draining %q", h)
	}
	rest, err := io.ReadAll(busy.in)
	if !strings.Contains(string(rest), "hello") || err != nil {
		t.Errorf("body %q, %v", rest, err)
	}
}

type ctxKey struct{}

func TestTimeouts(t *testing.T) {
	const short = 50 * time.Millisecond
	for _, c := range []struct {
		name string
		s    Server
		send string
		want string
	}{
		{"nothing comes", Server{ReadHeaderTimeout: short}, "", ""},
		{"half a header", Server{ReadHeaderTimeout: short}, "GET / HTTP/1.1\r\nHost:", "HTTP/1.1 408 "},
		{"no second request", Server{IdleTimeout: short}, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK"},
		{"half a body", Server{BodyTimeout: short}, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell", "HTTP/1.1 504 "},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := serve(t, &c.s, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var nerr net.Error
				if _, err := io.ReadAll(r.Body); errors.As(err, &nerr) && nerr.Timeout() {
					w.WriteHeader(http.StatusGatewayTimeout)
				} else if err != nil {
					t.Error(err)
				}
			}))
			got := talk(t, addr, c.send)
			if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("a header drips in", func(t *testing.T) {
		addr := serve(t, &Server{ReadHeaderTimeout: 4 * short}, nil)
		p := dial(t, addr)
		for range 1000 {
			if _, err := io.WriteString(p, "X"); err != nil {
				return
			}
			time.Sleep(short / 5)
		}
		t.Error("each byte puts the timeout off")
	})
	t.Run("the client does not read", func(t *testing.T) {
		failed := make(chan error, 1)
		addr := serve(t, &Server{WriteTimeout: short}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b := make([]byte, 1<<20)
			for range 1000 {
				if _, err := w.Write(b); err != nil {
					<-r.Context().Done()
					failed <- err
					return
				}
			}
			failed <- nil
		}))
		p := newRawPeer(t, dial(t, addr))
		p.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		var nerr net.Error
		if err := <-failed; !errors.As(err, &nerr) || !nerr.Timeout() {
			t.Errorf("writing ended with %v", err)
		}
	})
	t.Run("the handler's own", func(t *testing.T) {
		addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			if err := rc.EnableFullDuplex(); err != nil {
				t.Error(err)
			}
			if err := rc.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Error(err)
			}
			if r.URL.Path == "/" {
				if err := rc.SetReadDeadline(time.Now().Add(short)); err != nil {
					t.Error(err)
				}
				if _, err := r.Body.Read(make([]byte, 1)); err == nil {
					t.Error("read past the deadline")
				}
			}
		}))
		got := talk(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
		if !strings.Contains(got, "\r\nConnection: close\r\n") {
			t.Errorf("got %q", got)
		}
	})
}

// A client that goes away ends the request's context, whether or not it has sent
// more than the request, or less.
func TestClientGoesAway(t *testing.T) {
	for _, c := range []struct{ name, send string }{
		{"after the request", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
		{"after half of the next", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next"},
		{"within the body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe"},
	} {
		t.Run(c.name, func(t *testing.T) {
			entered, over := make(chan struct{}), make(chan struct{})
			addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(over)
				ctx, cancel := context.WithTimeout(r.Context(), patience)
				defer cancel()
				close(entered)
				<-ctx.Done()
				if !errors.Is(ctx.Err(), context.Canceled) {
					t.Errorf("the context ended with %v", ctx.Err())
				}
			}))
			p := newRawPeer(t, dial(t, addr))
			p.send(c.send)
			<-entered
			p.Close()
			<-over
		})
	}
	t.Run("while the body is read", func(t *testing.T) {
		over := make(chan struct{})
		addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer close(over)
			if _, err := io.ReadAll(r.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("the body ended with %v", err)
			}
			if r.Context().Err() == nil {
				t.Error("the context has not ended")
			}
		}))
		p := newRawPeer(t, dial(t, addr))
		p.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe")
		p.Close()
		<-over
	})
	t.Run("not at all", func(t *testing.T) {
		addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
				t.Error("the context has ended though the client is there")
			case <-time.After(4 * watchFirst):
			}
		}))
		p := newRawPeer(t, dial(t, addr))
		for range 3 {
			p.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			p.head()
		}
	})
}

// A context ends with its request.
func TestContextEnds(t *testing.T) {
	var last atomic.Pointer[context.Context]
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := last.Load(); p != nil && (*p).Err() == nil {
			t.Error("the context of a request that was answered has not ended")
		}
		ctx := r.Context()
		last.Store(&ctx)
		if ctx.Err() != nil {
			t.Error("a context has ended already")
		}
	}))
	talk(t, addr, strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 3)+"GET / HTTP/1.0\r\n\r\n")
}

// A body that another goroutine reads is taken from it when the handler returns.
func TestBodyLeftToAnother(t *testing.T) {
	read := make(chan error, 1)
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := make(chan struct{})
		go func() {
			r.Body.Read(make([]byte, 1))
			close(begun)
			_, err := io.ReadAll(r.Body)
			read <- err
		}()
		<-begun
		io.WriteString(w, "done")
	}))
	got := talk(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nh")
	if !strings.HasSuffix(got, "done") {
		t.Errorf("got %q", got)
	}
	if err := <-read; err == nil {
		t.Error("half a body came to an end")
	}
}

func TestHijack(t *testing.T) {
	for _, begin := range []bool{false, true} {
		addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if begin {
				w.Header().Set("Connection", "Upgrade")
				w.Header().Set("Upgrade", "echo")
				w.WriteHeader(http.StatusSwitchingProtocols)
			}
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrHijacked) {
				t.Errorf("hijacked twice: %v", err)
			}
			if _, err := w.Write([]byte("x")); !errors.Is(err, http.ErrHijacked) {
				t.Errorf("written after Hijack: %v", err)
			}
			if !begin {
				rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			}
			if n := rw.Reader.Buffered(); n != 5 {
				t.Errorf("%d bytes were read ahead", n)
			}
			rw.Flush()
			io.CopyN(rw, rw, 10)
			rw.Flush()
		}))
		p := newRawPeer(t, dial(t, addr))
		p.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nahead")
		if h := p.head(); h[0] != "HTTP/1.1 101 Switching Protocols" || field(h, "Upgrade") != "echo" || field(h, "Connection") != "Upgrade" || field(h, "Content-Length") != "" {
			t.Errorf("answer %q", h)
		}
		p.send("after")
		p.expect("aheadafter")
		if _, err := p.in.ReadByte(); err != io.EOF {
			t.Error(err)
		}
	}
}

// Reading and writing at once.
func TestFullDuplex(t *testing.T) {
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	p := newRawPeer(t, dial(t, addr))
	p.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
	for i := range 3 {
		p.send("5\r\nhello\r\n")
		if i == 0 {
			p.head()
		}
		p.expect("5\r\nhello\r\n")
	}
	p.send("0\r\n\r\n")
	p.expect("0\r\n\r\n")
}
