package upstream

import (
	"bufio"
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

// readRequest takes one request without a body, or with a short one.
func readRequest(br *bufio.Reader) bool {
	r, err := http.ReadRequest(br)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r.Body)
	return err == nil
}

func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		why    string
		server func(net.Conn)
		kind   Kind
		flag   string
		status int
		text   string
	}{
		{"closes before it answers", func(c net.Conn) { readRequest(bufio.NewReader(c)) }, Closed, "UC", 503, "closed the connection"},
		{"resets before it answers", func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			c.(*net.TCPConn).SetLinger(0)
		}, Closed, "UC", 503, "reset"},
		{"speaks something else", func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
		}, Malformed, "UPE", 502, "malformed"},
		{"ends within the header", func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
		}, Closed, "UC", 503, ""},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s := newSet(t, SetConfig{})
			c := one(t, s, Config{Endpoints: []Endpoint{at(t, rawServer(t, tt.server))}})
			_, _, err := send(c, request(t, "GET", "/", ""))
			e := wantKind(t, err, tt.kind, "a backend that "+tt.why)
			if e.Flag() != tt.flag || e.Status() != tt.status || !strings.Contains(e.Error(), tt.text) {
				t.Errorf("flag %s, status %d: %v; want %s, %d, …%s…", e.Flag(), e.Status(), e, tt.flag, tt.status, tt.text)
			}
			if !e.Sent || !e.Processed {
				t.Error("the error promises that nothing was sent")
			}
			if st := c.Status().Endpoints[0]; st.Active != 0 || st.Connections != 0 || !st.Well {
				t.Errorf("afterwards: %+v, want no request, no connection, and well", st)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, closedPort(t))}})
	req := request(t, "POST", "/", "hello")
	_, _, err := send(c, req)
	e := wantKind(t, err, Connect, "nobody listens")
	if e.Sent || e.Processed || e.BodyRead {
		t.Errorf("sent %v, processed %v, body read %v of a request that could not be sent", e.Sent, e.Processed, e.BodyRead)
	}
	if !strings.Contains(e.Error(), "refused") || e.Flag() != "UF" || e.Status() != 503 {
		t.Errorf("%s %d %v", e.Flag(), e.Status(), e)
	}
	if st := c.Status().Endpoints[0]; st.Well || st.Problem == "" || st.Connections != 0 || st.Active != 0 {
		t.Errorf("an endpoint that refused: %+v, want not well", st)
	}
	// The same request goes elsewhere, body and all.
	srv := serve(t, echo)
	c = one(t, s, Config{Endpoints: []Endpoint{at(t, srv.URL)}})
	mustSend(t, c, req, "POST / backend.example hello")
}

func TestConnectTimeout(t *testing.T) {
	hung := rawServer(t, func(c net.Conn) { io.Copy(io.Discard, c) }) // no handshake
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{
		Endpoints: []Endpoint{at(t, hung)}, ConnectTimeout: 30 * time.Millisecond, TLS: &TLS{ServerName: "a"},
	})
	_, _, err := send(c, request(t, "GET", "/", ""))
	e := wantKind(t, err, ConnectTimeout, "a TLS handshake that does not end")
	if e.Sent || !strings.Contains(e.Error(), "timed out") {
		t.Errorf("sent %v: %v", e.Sent, e)
	}
	if st := c.Status().Endpoints[0]; st.Well || st.Connections != 0 {
		t.Errorf("an endpoint that hung: %+v, want not well, no connection", st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	h, _ := c.Pick(Pick{})
	_, err = c.RoundTrip(request(t, "GET", "/", "").WithContext(ctx), h)
	wantKind(t, err, Timeout, "the request's own time was over first")
}

func TestContextEnds(t *testing.T) {
	for _, proto := range []Protocol{HTTP1, H2} {
		for _, begun := range []bool{false, true} {
			ended := make(chan struct{}, 1)
			srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
				if begun {
					w.Write([]byte("begin"))
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
				ended <- struct{}{}
			}, nil)
			s := newSet(t, SetConfig{})
			c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
			gone := errors.New("the client is gone")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			h, _ := c.Pick(Pick{})
			if !begun {
				time.AfterFunc(20*time.Millisecond, func() { cancel(gone) })
			}
			resp, err := c.RoundTrip(request(t, "GET", "/", "").WithContext(ctx), h)
			if begun {
				if err != nil {
					t.Fatal(err)
				}
				io.ReadFull(resp.Body, make([]byte, 5))
				cancel(gone)
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			e := wantKind(t, err, Canceled, "a client that is gone")
			if !errors.Is(err, gone) || e.Flag() != "DC" {
				t.Errorf("%v, flag %s; want the cause, and DC", err, e.Flag())
			}
			<-ended // the backend sees it, too
			eventually(t, "nothing is under way", func() bool { return c.Status().Endpoints[0].Active == 0 })
		}
	}
}

func TestCutAnswerIsNotWhole(t *testing.T) {
	for _, head := range []string{"Content-Length: 10", "Transfer-Encoding: chunked"} {
		addr := rawServer(t, func(c net.Conn) {
			readRequest(bufio.NewReader(c))
			io.WriteString(c, "HTTP/1.1 200 OK\r\n"+head+"\r\n\r\n4\r\nfour\r\n")
		})
		s := newSet(t, SetConfig{})
		c := one(t, s, Config{Endpoints: []Endpoint{at(t, addr)}})
		resp, got, err := send(c, request(t, "GET", "/", ""))
		if resp == nil {
			t.Fatal(err)
		}
		if err == nil {
			t.Errorf("%s: an answer that was cut looks whole: %q", head, got)
			continue
		}
		wantKind(t, err, Closed, "an answer that was cut")
	}
}

// lastGasp is a server whose connections end with their second request, without
// an answer; what it does with the first is the same as any.
func lastGasp(t *testing.T, requests *atomic.Int32) string {
	return rawServer(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		if !readRequest(br) {
			return
		}
		requests.Add(1)
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if readRequest(br) {
			requests.Add(1)
		}
	})
}

func TestStaleConnection(t *testing.T) {
	for _, tt := range []struct {
		method, body string
		getBody      bool
		again        bool
	}{
		{method: "GET", again: true},
		{method: "DELETE", again: true},
		{method: "POST"},
		{method: "POST", body: "x"},
		{method: "PUT", body: "x"},
		{method: "PUT", body: "x", getBody: true, again: true},
		{method: "POST", body: "x", getBody: true},
	} {
		t.Run(tt.method+tt.body, func(t *testing.T) {
			var requests atomic.Int32
			s := newSet(t, SetConfig{})
			c := one(t, s, Config{Endpoints: []Endpoint{at(t, lastGasp(t, &requests))}})
			mustSend(t, c, request(t, "GET", "/", ""), "ok")
			req := request(t, tt.method, "/", tt.body)
			if tt.getBody {
				req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(tt.body)), nil }
			}
			_, _, err := send(c, req)
			if tt.again {
				if err != nil {
					t.Errorf("not sent again: %v", err)
				}
				return
			}
			e := wantKind(t, err, Closed, "not safe to send again")
			if !e.Processed || requests.Load() != 2 {
				t.Errorf("processed %v, %d requests; want true, 2", e.Processed, requests.Load())
			}
		})
	}
}

// A backend that closes connections as soon as they are idle is served without an
// error: that they are closed is seen before they are used.
func TestIdleCloseIsSeen(t *testing.T) {
	addr := rawServer(t, func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) {
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, addr)}})
	for range 20 {
		mustSend(t, c, request(t, "POST", "/", "x"), "ok")
		// The end may still be on its way; what is tested is that it is seen once
		// it is there.
		eventually(t, "the closed connection is not usable", func() bool {
			p := c.members.Load().hosts[0].peer
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.idle) == 0 || !p.idle[0].h1.Reusable()
		})
	}
}

func TestErrorsOfRequestBody(t *testing.T) {
	srv := h2cServer(t, echo, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		broken := errors.New("client reset")
		req := request(t, "POST", "/", "")
		req.Body = io.NopCloser(io.MultiReader(strings.NewReader("some"), errReader{broken}))
		req.ContentLength = -1
		_, _, err := send(c, req)
		e := wantKind(t, err, RequestBody, "the request's body could not be read")
		if !errors.Is(e, broken) || !e.BodyRead {
			t.Errorf("%v, body read %v", e, e.BodyRead)
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func TestRequestsThatCannotBeSent(t *testing.T) {
	srv := h2cServer(t, echo, func(s *http.Server) { s.MaxHeaderBytes = 2000 })
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		for why, change := range map[string]func(*http.Request){
			"a header value with a line break": func(r *http.Request) { r.Header.Set("X", "a\r\nb: c") },
			"a header name with a space":       func(r *http.Request) { r.Header["a b"] = []string{"c"} },
			"a host with a space":              func(r *http.Request) { r.Host = "a b" },
		} {
			r := request(t, "GET", "/", "")
			change(r)
			_, _, err := send(c, r)
			e := wantKind(t, err, BadRequest, why)
			if e.Sent || e.Processed || e.Status() != 400 {
				t.Errorf("%s: sent %v, processed %v, status %d", why, e.Sent, e.Processed, e.Status())
			}
		}
		r := request(t, "GET", "/", "")
		r.Header.Set("X", strings.Repeat("x", 20000))
		resp, _, err := send(c, r)
		if proto == H2 {
			wantKind(t, err, BadRequest, "a header longer than the peer takes")
		} else if err != nil || resp.StatusCode != 431 {
			t.Errorf("a header that is too long: %v, %v", resp, err)
		}
		mustSend(t, c, request(t, "GET", "/", ""), "GET / backend.example ")
	}
}

func TestAnswersThatAreTooLong(t *testing.T) {
	srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("X", strings.Repeat("x", 20000)) }, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{MaxHeaderBytes: 10000})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		_, _, err := send(c, request(t, "GET", "/", ""))
		wantKind(t, err, Malformed, "a header that is too long")
	}
}
