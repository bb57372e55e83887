package h2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestChurn lets many clients ask, send, stop in the middle and leave, at random, and
// checks that whatever is complete is right, and that nothing is left at the end.
func TestChurn(t *testing.T) {
	s := Server{MaxResets: 1 << 20}
	var running atomic.Int64
	content := make([]byte, 300_000)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	h := func(w http.ResponseWriter, r *http.Request) {
		running.Add(1)
		defer running.Add(-1)
		switch r.URL.Path {
		case "/echo":
			io.Copy(w, r.Body)
		case "/get":
			for at := 0; at < len(content); {
				n := min(1+rand.IntN(40_000), len(content)-at)
				if _, err := w.Write(content[at : at+n]); err != nil {
					return
				}
				at += n
				if rand.IntN(4) == 0 {
					w.(http.Flusher).Flush()
				}
			}
		case "/ignore":
			io.WriteString(w, "early")
		case "/abort":
			w.Write(content[:rand.IntN(20_000)])
			panic(http.ErrAbortHandler)
		case "/wait":
			<-r.Context().Done()
		}
	}
	deadline := time.Now().Add(3 * time.Second)
	ways(t, &s, h, func(t *testing.T, c *http.Client, base string) {
		deadline = time.Now().Add(1500 * time.Millisecond)
		var wg sync.WaitGroup
		for range 24 {
			wg.Go(func() {
				for time.Now().Before(deadline) {
					churn(t, c, base, content)
				}
			})
		}
		wg.Wait()
		c.CloseIdleConnections()
		for end := time.Now().Add(10 * time.Second); running.Load() != 0 || s.unread.Load() != 0 || s.grown.Load() != 0; {
			if time.Now().After(end) {
				t.Fatalf("%d handlers run, %d bytes are held, windows have grown by %d", running.Load(), s.unread.Load(), s.grown.Load())
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func churn(t *testing.T, c *http.Client, base string, content []byte) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	what := []string{"/echo", "/get", "/ignore", "/abort", "/wait"}[rand.IntN(5)]
	sent := content[:rand.IntN(len(content))]
	hurry := what == "/wait" || rand.IntN(4) == 0
	if hurry {
		time.AfterFunc(time.Duration(rand.IntN(3_000))*time.Microsecond, cancel)
	}
	req, _ := http.NewRequestWithContext(ctx, "POST", base+what, io.MultiReader(bytes.NewReader(sent)))
	res, err := c.Do(req)
	if err != nil {
		if !hurry && what != "/abort" {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	switch {
	case what == "/abort" && err == nil:
		t.Errorf("%s ended in order", what)
	case err != nil:
		if !hurry && what != "/abort" {
			t.Errorf("%s: %v", what, err)
		} else if hurry && what != "/abort" && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	case what == "/echo" && !bytes.Equal(got, sent):
		t.Errorf("%d bytes came back as %d", len(sent), len(got))
	case what == "/get" && !bytes.Equal(got, content):
		t.Errorf("%d bytes came, not %d", len(got), len(content))
	}
}
