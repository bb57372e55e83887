package h1

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"
)

// certificate is one for loopback, and who trusts it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"a.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// A proxy of both halves of this package between net/http's, with and without TLS
// on either side: what goes in comes out, whatever its size and framing.
func TestThrough(t *testing.T) {
	cert, roots := certificate(t)
	for _, frontTLS := range []bool{false, true} {
		for _, backTLS := range []bool{false, true} {
			t.Run(fmt.Sprintf("TLS before %v, behind %v", frontTLS, backTLS), func(t *testing.T) {
				backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					sum := sha256.New()
					n, err := io.Copy(sum, r.Body)
					if err != nil {
						t.Error(err)
					}
					w.Header().Set("Sum", fmt.Sprintf("%d %x", n, sum.Sum(nil)))
					w.Header().Set("Encoding", fmt.Sprint(r.TransferEncoding))
					var size int64
					fmt.Sscan(r.URL.RawQuery, &size)
					if r.Header.Get("Known") != "" {
						w.Header().Set("Content-Length", fmt.Sprint(size))
					}
					io.CopyN(w, mrand.NewChaCha8([32]byte{1}), size)
				}))
				if backTLS {
					backend.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
					backend.StartTLS()
				} else {
					backend.Start()
				}
				defer backend.Close()

				s := &Server{}
				front := listen(t, func(c net.Conn) {
					if frontTLS {
						tc := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
						if tc.Handshake() != nil {
							return
						}
						c = tc
					}
					var cc *ClientConn
					defer func() {
						if cc != nil {
							cc.Close()
						}
					}()
					s.ServeConn(context.Background(), c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if (r.TLS != nil) != frontTLS {
							t.Errorf("TLS: %v", r.TLS)
						}
						if cc == nil || !cc.Reusable() {
							bc, err := net.Dial("tcp", backend.Listener.Addr().String())
							if err != nil {
								t.Error(err)
								return
							}
							if backTLS {
								bc = tls.Client(bc, &tls.Config{RootCAs: roots, ServerName: "a.example"})
							}
							if cc != nil {
								t.Error("the connection could not be used again")
								cc.Close()
							}
							cc = NewClientConn(bc, ClientOptions{})
						}
						resp, err := cc.RoundTrip(r)
						if err != nil {
							t.Error(err)
							panic(http.ErrAbortHandler)
						}
						forward(w, resp)
					}))
				})

				tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
				defer tr.CloseIdleConnections()
				scheme := "http"
				if frontTLS {
					scheme = "https"
				}
				for _, size := range []int{0, 1, 1000, bufferSize, 63 << 10, 65 << 10, 2 << 20} {
					for _, known := range []bool{false, true} {
						body := make([]byte, size)
						mrand.NewChaCha8([32]byte{2}).Read(body)
						req, _ := http.NewRequest("POST", fmt.Sprintf("%s://%s/?%d", scheme, front, size), bytes.NewReader(body))
						if known {
							req.Header.Set("Known", "yes")
						} else {
							req.Body, req.ContentLength = io.NopCloser(struct{ io.Reader }{req.Body}), -1
						}
						resp, err := tr.RoundTrip(req)
						if err != nil {
							t.Fatalf("%d bytes, length known %v: %v", size, known, err)
						}
						got, err := io.ReadAll(resp.Body)
						resp.Body.Close()
						want := make([]byte, size)
						mrand.NewChaCha8([32]byte{1}).Read(want)
						if err != nil || !bytes.Equal(got, want) {
							t.Errorf("%d bytes, length known %v: answer of %d bytes, %v", size, known, len(got), err)
						}
						if sum := fmt.Sprintf("%d %x", size, sha256.Sum256(body)); resp.Header.Get("Sum") != sum {
							t.Errorf("%d bytes, length known %v: the backend read %s", size, known, resp.Header.Get("Sum"))
						}
						if enc := resp.Header.Get("Encoding"); (enc == "[chunked]") == known && size > 0 {
							t.Errorf("%d bytes, length known %v: encoding %s", size, known, enc)
						}
					}
				}
			})
		}
	}
}

// A stream is passed on as it comes: the second part is only sent when the first
// has arrived.
func TestStreamsThrough(t *testing.T) {
	for _, head := range []string{"Transfer-Encoding: chunked", "Content-Length: 15", "Connection: close"} {
		got := make(chan struct{})
		backend := listen(t, func(c net.Conn) {
			p := newRawPeer(t, c)
			p.head()
			p.send("HTTP/1.1 200 OK\r\n" + head + "\r\n\r\n")
			for i := range 3 {
				if head[0] == 'T' {
					p.send("5\r\nhello\r\n")
				} else {
					p.send("hello")
				}
				if i < 2 {
					<-got
				}
			}
			if head[0] == 'T' {
				p.send("0\r\n\r\n")
			}
		})
		p := &proxyHandler{addr: backend}
		front := serve(t, &Server{}, p)
		req, _ := http.NewRequest("GET", "http://"+front+"/", nil)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			b := make([]byte, 5)
			if _, err := io.ReadFull(resp.Body, b); string(b) != "hello" {
				t.Fatalf("%s: read %q, %v", head, b, err)
			}
			if i < 2 {
				got <- struct{}{}
			}
		}
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("%s: read %q, %v", head, rest, err)
		}
		resp.Body.Close()
		p.close()
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// A client that goes away in the middle of an upload or a download ends the
// exchange behind the proxy; a backend that does is not taken for an end.
func TestCutThrough(t *testing.T) {
	const size = 64 << 20 // more than sockets hold
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
	t.Run("download, by the client", func(t *testing.T) {
		gone := make(chan struct{})
		backend := listen(t, func(c net.Conn) {
			p := newRawPeer(t, c)
			p.head()
			p.send(head)
			io.CopyN(c, neverEnding{}, size)
			close(gone)
		})
		p := &proxyHandler{addr: backend}
		c := newRawPeer(t, dial(t, serve(t, &Server{}, p)))
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.head()
		c.Close()
		<-gone
	})
	t.Run("download, by the backend", func(t *testing.T) {
		backend := listen(t, func(c net.Conn) {
			p := newRawPeer(t, c)
			p.head()
			p.send(head)
			io.CopyN(c, neverEnding{}, 10<<20)
		})
		p := &proxyHandler{addr: backend}
		c := newRawPeer(t, dial(t, serve(t, &Server{}, p)))
		c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		c.head()
		if n, err := io.Copy(io.Discard, c.in); n != 10<<20 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
	})
	for _, framing := range []string{fmt.Sprintf("Content-Length: %d\r\n\r\n", size), "Transfer-Encoding: chunked\r\n\r\n3000000\r\n"} {
		t.Run("upload, by the client", func(t *testing.T) {
			gone := make(chan error, 1)
			backend := listen(t, func(c net.Conn) {
				p := newRawPeer(t, c)
				p.head()
				_, err := io.Copy(io.Discard, p.in)
				gone <- err
			})
			p := &proxyHandler{addr: backend}
			c := newRawPeer(t, dial(t, serve(t, &Server{}, p)))
			c.send("POST / HTTP/1.1\r\nHost: a\r\n" + framing)
			io.CopyN(c, neverEnding{}, 10<<20)
			c.Close()
			<-gone
		})
	}
	t.Run("upload, by the backend", func(t *testing.T) {
		backend := listen(t, func(c net.Conn) {
			newRawPeer(t, c).head()
			c.(*net.TCPConn).SetLinger(0)
		})
		p := &proxyHandler{addr: backend}
		c := newRawPeer(t, dial(t, serve(t, &Server{}, p)))
		c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
		go io.CopyN(c, neverEnding{}, size)
		if h := c.head(); len(h) == 0 || h[0] != "HTTP/1.1 502 Bad Gateway" {
			t.Errorf("answer %q", h)
		}
	})
}

// stream is a connection without a socket, which gives what it has before it looks
// at its deadline, as a stream of a tunnel does.
type stream struct {
	net.Conn // for the addresses
	mu       sync.Mutex
	cond     sync.Cond
	in       []byte
	err      error
	deadline time.Time
	out      func([]byte)
}

func (s *stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case len(s.in) > 0:
			n := copy(p, s.in)
			s.in = s.in[n:]
			return n, nil
		case s.err != nil:
			return 0, s.err
		case !s.deadline.IsZero() && time.Now().After(s.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		s.cond.Wait()
	}
}

func (s *stream) put(b string, err error) {
	s.mu.Lock()
	s.in, s.err = append(s.in, b...), err
	s.cond.Broadcast()
	s.mu.Unlock()
}

func (s *stream) Write(p []byte) (int, error) { s.out(p); return len(p), nil }
func (s *stream) Close() error                { s.put("", net.ErrClosed); return nil }
func (s *stream) SetDeadline(t time.Time) error {
	return s.SetReadDeadline(t)
}
func (s *stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	s.deadline = t
	s.cond.Broadcast()
	s.mu.Unlock()
	return nil
}

func TestOverStream(t *testing.T) {
	for name, news := range map[string]func(s *stream){
		"nothing": nil,
		"end":     func(s *stream) { s.put("", io.EOF) },
		"bytes":   func(s *stream) { s.put("HTTP/1.1 408 ", nil) },
	} {
		s := &stream{}
		s.cond.L = &s.mu
		s.out = func([]byte) { s.put("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", nil) }
		cc := NewClientConn(s, ClientOptions{})
		for range 3 {
			resp, err := cc.RoundTrip(request(t, "GET", ""))
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); string(b) != "hello" || err != nil || !cc.Reusable() {
				t.Errorf("read %q, %v; reusable %v", b, err, cc.Reusable())
			}
		}
		if news != nil {
			news(s)
			if cc.Reusable() {
				t.Errorf("%s is not noticed", name)
			}
		}
		cc.Close()
	}
}
