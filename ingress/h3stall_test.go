package ingress

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// TestStalls: over every version, a body that does not come and an answer that
// nobody reads end the request, and not its connection's others.
func TestStalls(t *testing.T) {
	ca := newAuthority(t)
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			over := make(chan string, 2)
			s := start(t, ServerConfig{
				Limits: Limits{BodyTimeout: 300 * time.Millisecond, WriteTimeout: 300 * time.Millisecond},
				Proxy: answering{under: func(w http.ResponseWriter, r *http.Request) {
					switch r.URL.Path {
					case "/body":
						_, err := io.Copy(io.Discard, r.Body)
						if err != nil {
							over <- "body"
							panic(http.ErrAbortHandler)
						}
					case "/answer":
						block := bytes.Repeat([]byte("x"), 64<<10)
						for {
							if _, err := w.Write(block); err != nil {
								over <- "answer"
								panic(http.ErrAbortHandler)
							}
						}
					}
				}},
			})
			bind := freeBind(t)
			s.apply(t, quicPort(t, ca, bind))
			conf := &tls.Config{RootCAs: ca.pool, ServerName: "a.org"}
			expect := func(what string) {
				t.Helper()
				select {
				case got := <-over:
					if got != what {
						t.Errorf("%s ended, want %s", got, what)
					}
				case <-time.After(10 * time.Second):
					t.Errorf("the request waits for its %s still", what)
				}
			}
			c := dialHTTP(t, v, bind.String(), conf)
			body, feed := io.Pipe()
			go func() {
				req, _ := http.NewRequest("POST", "https://a.org/body", body)
				if resp, err := c.Do(req); err == nil {
					resp.Body.Close()
				}
			}()
			feed.Write([]byte("some"))
			expect("body")
			feed.Close()

			c = dialHTTP(t, v, bind.String(), conf)
			resp, err := c.Get("https://a.org/answer")
			if err != nil {
				t.Fatal(err)
			}
			expect("answer")
			resp.Body.Close()
			if v == "h1" {
				return
			}
			if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
				t.Errorf("another request of the connection got %d", status)
			}
		})
	}
}

// TestQuietStreams: what moves in one direction keeps the other.
func TestQuietStreams(t *testing.T) {
	ca := newAuthority(t)
	s := start(t, ServerConfig{
		Limits: Limits{BodyTimeout: 500 * time.Millisecond, WriteTimeout: 500 * time.Millisecond},
		Proxy: answering{under: func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			for range 20 { // for longer than both timeouts
				io.WriteString(w, ".")
				rc.Flush()
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(700 * time.Millisecond) // and a pause before the end
		}},
	})
	bind := freeBind(t)
	s.apply(t, quicPort(t, ca, bind))
	c := dialHTTP(t, "h3", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
	body, feed := io.Pipe()
	req, _ := http.NewRequest("POST", "https://a.org/", body)
	go func() {
		feed.Write([]byte("hello"))
		time.Sleep(2500 * time.Millisecond)
		feed.Close()
	}()
	resp, err := c.Transport.(*http3.Transport).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.HasPrefix(got, []byte("....................")) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}
