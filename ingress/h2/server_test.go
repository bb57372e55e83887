package h2

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// ways are the two that connections come.
func ways(t *testing.T, s *Server, h http.HandlerFunc, test func(t *testing.T, c *http.Client, base string)) {
	t.Run("h2c", func(t *testing.T) {
		test(t, client(t, plain(t, s, h), false), "http://example.com")
	})
	t.Run("tls", func(t *testing.T) {
		test(t, client(t, secure(t, s, h), true), "https://example.com")
	})
}

func get(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestSmall(t *testing.T) {
	ways(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", fmt.Sprint(r.Method, " ", r.Host, " ", r.URL.Path, "?", r.URL.RawQuery, " ", r.Proto, " ", r.ContentLength, " ", r.RequestURI))
		io.WriteString(w, "hello")
	}, func(t *testing.T, c *http.Client, base string) {
		res, body := get(t, c, base+"/a/b?c=d")
		if body != "hello" || res.ContentLength != 5 || res.Header.Get("Date") == "" || res.Header.Get("Content-Type") != "" {
			t.Errorf("answered %q, %v", body, res.Header)
		}
		if want := "GET example.com /a/b?c=d HTTP/2.0 0 /a/b?c=d"; res.Header.Get("X-Seen") != want {
			t.Errorf("the handler saw %q, want %q", res.Header.Get("X-Seen"), want)
		}
	})
}

func TestEcho(t *testing.T) {
	ways(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}, func(t *testing.T, c *http.Client, base string) {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				want := make([]byte, 1<<(i+1)+i)
				rand.Read(want)
				res, err := c.Post(base, "", bytes.NewReader(want))
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				got, err := io.ReadAll(res.Body)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%d bytes came back as %d: %v", len(want), len(got), err)
				}
			})
		}
		wg.Wait()
	})
}

func TestTrailers(t *testing.T) {
	ways(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "X-Announced")
		w.WriteHeader(200)
		w.Header().Set("Too-Late", "x")
		w.Header().Set("X-Announced", string(b)+r.Trailer.Get("X-Up"))
		w.Header().Set(http.TrailerPrefix+"X-Other", "there")
	}, func(t *testing.T, c *http.Client, base string) {
		req, _ := http.NewRequest("POST", base, io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-Up": {"trailer"}}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		if res.Trailer.Get("X-Announced") != "bodytrailer" || res.Trailer.Get("X-Other") != "there" || res.Header.Get("Too-Late") != "" {
			t.Errorf("header %v, trailer %v", res.Header, res.Trailer)
		}
	})
}

func TestBulk(t *testing.T) {
	ways(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 100_000)
		for range 50 {
			if _, err := w.Write(b); err != nil {
				t.Error(err)
			}
		}
	}, func(t *testing.T, c *http.Client, base string) {
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				res, err := c.Get(base)
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				n, err := io.Copy(io.Discard, res.Body)
				if n != 5_000_000 || err != nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			})
		}
		wg.Wait()
	})
}
