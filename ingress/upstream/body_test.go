package upstream

import (
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress/h1"
)

var _ h1.Spliceable = (*answerBody)(nil)

// Close in one goroutine while another reads the end of the body must not cut the
// connection, which is another request's by then.
func TestCloseBesideRead(t *testing.T) {
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		io.WriteString(w, "other")
	})
	s := newSet(t, SetConfig{MaxConns: 2})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, srv.URL)}})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				// A POST is not sent again, so that a cut would be seen.
				if _, got, err := send(c, request(t, "POST", "/", "")); err != nil || got != "firstother" {
					t.Errorf("a stranger's answer: %q, %v", got, err)
					return
				}
			}
		})
	}
	for range 300 {
		h, _ := c.Pick(Pick{})
		resp, err := c.RoundTrip(request(t, "GET", "/", ""), h)
		if err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		both.Go(func() { io.ReadAll(resp.Body) })
		both.Go(func() { resp.Body.Close() })
		both.Wait()
		if _, err := resp.Body.Read(make([]byte, 1)); err == nil {
			t.Error("Read after Close gives bytes")
		}
	}
	close(stop)
	wg.Wait()
	if st := c.Status().Endpoints[0]; st.Active != 0 {
		t.Errorf("%d under way afterwards", st.Active)
	}
}

func TestAnswerIsSpliced(t *testing.T) {
	const size = 8 << 20
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "8388608")
		w.Write(make([]byte, size))
	})
	got := make(chan int64, 1)
	sink := rawServer(t, func(c net.Conn) {
		n, _ := io.Copy(io.Discard, c)
		got <- n
	})
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, srv.URL)}})
	h, _ := c.Pick(Pick{})
	resp, err := c.RoundTrip(request(t, "GET", "/", ""), h)
	if err != nil {
		t.Fatal(err)
	}
	dst, err := net.Dial("tcp", sink)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	body := resp.Body.(h1.Spliceable)
	var spliced int64
	buf := make([]byte, 16<<10)
	for end := time.Now().Add(20 * time.Second); ; {
		if time.Now().After(end) {
			t.Fatal("no end")
		}
		n, err := body.SpliceTo(dst.(*net.TCPConn), size)
		if err != nil {
			t.Fatal(err)
		}
		if spliced += n; n > 0 {
			continue
		}
		m, err := resp.Body.Read(buf)
		dst.Write(buf[:m])
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	resp.Body.Close()
	dst.Close()
	if n := <-got; n != size {
		t.Errorf("%d bytes arrived, want %d", n, size)
	}
	if spliced == 0 {
		t.Error("nothing was moved by the kernel")
	}
	if st := c.Status().Endpoints[0]; st.Idle != 1 || st.Active != 0 {
		t.Errorf("afterwards %+v, want one idle connection", st)
	}
}
