package h1

import (
	"errors"
	"net/http"
	"os"
	"testing"
	"time"
)

// The timer that earlier requests have left behind, whenever it was set, serves the
// one whose client leaves.
func TestClientGoesAwayLater(t *testing.T) {
	for _, before := range []time.Duration{0, 2 * watchFirst, 10 * watchFirst} {
		over := make(chan error, 1)
		addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			done := r.Context().Done()
			switch r.URL.Path {
			case "/quick":
				return
			case "/slow": // the watch looks ever more seldom meanwhile
				select {
				case <-done:
					t.Error("the context of a client that is there has ended")
				case <-time.After(before):
				}
				return
			}
			select {
			case <-done:
				over <- r.Context().Err()
			case <-time.After(patience):
				over <- os.ErrDeadlineExceeded
			}
		}))
		p := newRawPeer(t, dial(t, addr))
		for _, path := range []string{"/quick", "/slow", "/quick", "/quick"} {
			p.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
			if head := p.head(); len(head) == 0 || head[0] != "HTTP/1.1 200 OK" {
				t.Fatalf("got %q", head)
			}
		}
		p.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		p.Close()
		if err := <-over; err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %v: the context ended with %v", before, err)
		}
	}
}
