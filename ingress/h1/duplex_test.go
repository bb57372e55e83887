package h1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// A client that sends nothing for long, but is answered all the while, is waited
// for; one with whom nothing happens is not.
func TestBodyTimeoutBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout, pause = time.Minute, 40 * time.Second
		client, server := net.Pipe()
		var lastWrite time.Time
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			read := make(chan error, 1)
			go func() {
				_, err := r.Body.Read(make([]byte, 1))
				read <- err
			}()
			for range 5 {
				select {
				case err := <-read:
					t.Errorf("the body ended with %v while it was answered", err)
					return
				case <-time.After(pause):
				}
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
				lastWrite = time.Now()
			}
			err := <-read
			if quiet := time.Since(lastWrite); !errors.Is(err, os.ErrDeadlineExceeded) || quiet < timeout*15/16 || quiet > timeout {
				t.Errorf("the body ended with %v after %v of silence", err, quiet)
			}
		})
		go func() {
			io.WriteString(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
			io.Copy(io.Discard, client)
			client.Close()
		}()
		s := &Server{BodyTimeout: timeout, WriteTimeout: time.Hour}
		s.ServeConn(context.Background(), server, h)
	})
}
