package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestAnswers checks what answers look like on the wire.
func TestAnswers(t *testing.T) {
	type handler = func(t *testing.T, w http.ResponseWriter, r *http.Request)
	text := func(w http.ResponseWriter, s string) { io.WriteString(w, s) }
	for _, c := range []struct {
		name    string
		method  string
		handler handler
		want    string // status, fields but date, body, trailer
	}{
		{"nothing", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {}, `200 content-length: 0 END`},
		{"small", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) { text(w, "abc") }, `200 content-length: 3 "abc" END`},
		{"declared", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "3")
			text(w, "abc")
		}, `200 content-length: 3 "abc" END`},
		{"flushed", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			text(w, "abc")
			w.(http.Flusher).Flush()
			text(w, "def")
		}, `200 "abcdef" END`},
		{"head", "HEAD", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			if n, err := w.Write([]byte("0123456789")); n != 10 || err != nil {
				t.Errorf("Write for HEAD: %d, %v", n, err)
			}
		}, `200 content-length: 10 END`},
		{"no content", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(204)
			if _, err := w.Write([]byte("x")); err != http.ErrBodyNotAllowed {
				t.Errorf("Write after 204: %v", err)
			}
		}, `204 END`},
		{"not modified", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			w.WriteHeader(304)
		}, `304 content-length: 10 END`},
		{"too much", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "3")
			text(w, "abc")
			if _, err := w.Write([]byte("d")); err != http.ErrContentLength {
				t.Errorf("Write beyond Content-Length: %v", err)
			}
		}, `200 content-length: 3 "abc" END`},
		{"too little", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "3")
			text(w, "ab")
		}, `RST INTERNAL_ERROR`},
		{"too little, late", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "3")
			text(w, "ab")
			w.(http.Flusher).Flush()
		}, `200 content-length: 3 "ab" RST INTERNAL_ERROR`},
		{"abort", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, `RST INTERNAL_ERROR`},
		{"panic", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) { panic("oops") }, `RST INTERNAL_ERROR`},
		{"abort, late", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			text(w, "ab")
			w.(http.Flusher).Flush()
			text(w, "never sent")
			panic(http.ErrAbortHandler)
		}, `200 "ab" RST INTERNAL_ERROR`},
		{"early hints", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(103)
			w.Header().Del("Link")
			w.WriteHeader(101) // HTTP/2 has none
			text(w, "x")
		}, `103 link: </a> 200 content-length: 1 "x" END`},
		{"trailers alone", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		}, `200 grpc-status: 0 END`},
		{"trailers that may not be", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "Content-Length, X-A")
			text(w, "x")
			w.Header().Set("X-A", "a")
			w.Header().Set(http.TrailerPrefix+"Set-Cookie", "b")
			w.Header().Set(http.TrailerPrefix+"Bad Name", "b")
		}, `200 trailer: Content-Length, X-A "x" x-a: a END`},
		{"fields that may not be", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			for _, n := range []string{"Connection", "Keep-Alive", "Proxy-Connection", "Transfer-Encoding", "Upgrade", "a b", "", ":status"} {
				w.Header()[n] = []string{"x"}
			}
			w.Header()["X-Split"] = []string{"a\r\nb: c"}
			w.Header()["X-Trimmed"] = []string{" a\t"}
			w.Header()["Content-Length"] = []string{"abc"}
		}, `200 x-trimmed: a content-length: 0 END`},
		{"status twice", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(418)
			w.WriteHeader(500)
		}, `418 content-length: 0 END`},
		{"end before the handler's", "GET", func(t *testing.T, w http.ResponseWriter, r *http.Request) {
			text(w, "abc")
			cw := w.(interface{ CloseWrite() error })
			if err := cw.CloseWrite(); err != nil {
				t.Errorf("CloseWrite: %v", err)
			}
			if _, err := w.Write([]byte("x")); err == nil {
				t.Error("Write after CloseWrite succeeds")
			}
			if cw.CloseWrite() == nil {
				t.Error("the second CloseWrite succeeds")
			}
		}, `200 content-length: 3 "abc" END`},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) { c.handler(t, w, r) })
			p := dial(t, addr)
			id := p.open(true, ":method", c.method, ":scheme", "http", ":authority", "x", ":path", "/")
			var got strings.Builder
			dated := false
			body := ""
			flush := func() {
				if body != "" {
					fmt.Fprintf(&got, "%q ", body)
				}
				body = ""
			}
			p.want("the end", func(f http2.Frame) bool {
				if f.Header().StreamID != id {
					return false
				}
				end := f.Header().Flags.Has(http2.FlagDataEndStream)
				switch f := f.(type) {
				case *http2.MetaHeadersFrame:
					flush()
					for _, hf := range f.Fields {
						switch {
						case hf.Name == ":status":
							got.WriteString(hf.Value + " ")
						case hf.Name == "date":
							dated = true
						default:
							fmt.Fprintf(&got, "%s: %s ", hf.Name, hf.Value)
						}
					}
				case *http2.DataFrame:
					body += string(f.Data())
				case *http2.RSTStreamFrame:
					flush()
					fmt.Fprintf(&got, "RST %v", f.ErrCode)
					return true
				default:
					return false
				}
				if end {
					flush()
					got.WriteString("END")
				}
				return end
			})
			if got.String() != c.want {
				t.Errorf("\n got %s\nwant %s", got.String(), c.want)
			}
			if strings.Contains(c.want, "200") && !dated {
				t.Error("there is no date")
			}
			p.ping() // the connection goes on
		})
	}
}

// TestContinue checks that 100 Continue is sent when the body is read, and not if
// the answer comes first.
func TestContinue(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			io.Copy(w, r.Body)
			return
		}
		w.WriteHeader(403)
		w.(http.Flusher).Flush()
		io.Copy(io.Discard, r.Body)
	})
	p := dial(t, addr)
	id := p.open(false, with(postRoot, "expect", "100-continue")...)
	p.wantStatus(id, "100")
	p.f.WriteData(id, true, []byte("body"))
	p.wantStatus(id, "200")
	if b, _ := p.wantEnd(id); string(b) != "body" {
		t.Errorf("answered %q", b)
	}
	id = p.open(false, with(postRoot[:6], ":path", "/no", "expect", "100-continue")...)
	p.wantStatus(id, "403")
	p.f.WriteData(id, true, []byte("body"))
	p.wantEnd(id)
}

// TestEarlyAnswer checks that a client that still sends is told that nobody wants
// the rest, and that the connection goes on.
func TestEarlyAnswer(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "enough") })
	p := dial(t, addr)
	for range 40 { // more than any window
		id := p.open(false, postRoot...)
		p.wantStatus(id, "200")
		if b, _ := p.wantEnd(id); string(b) != "enough" {
			t.Errorf("answered %q", b)
		}
		p.wantReset(id, http2.ErrCodeNo)
		for range 4 {
			p.f.WriteData(id, false, make([]byte, 16<<10)) // it was on its way
		}
		p.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: p.block("a", "b"), EndStream: true, EndHeaders: true})
		p.ping()
	}
}

// TestEarlyCloseWrite is the same for a handler that ends its answer and then returns.
func TestEarlyCloseWrite(t *testing.T) {
	ended := make(chan struct{})
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		w.(interface{ CloseWrite() error }).CloseWrite()
		<-ended
	})
	p := dial(t, addr)
	id := p.open(false, postRoot...)
	p.wantStatus(id, "200")
	close(ended)
	p.wantReset(id, http2.ErrCodeNo)
}

// TestBodyClose checks that closing the body ends a Read in another goroutine.
func TestBodyClose(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		got := make(chan error)
		reading := make(chan struct{})
		go func() {
			close(reading)
			_, err := r.Body.Read(make([]byte, 1))
			got <- err
		}()
		<-reading
		time.Sleep(time.Millisecond)
		r.Body.Close()
		if err := <-got; err != http.ErrBodyReadAfterClose {
			t.Errorf("Read returned %v", err)
		}
	})
	p := dial(t, addr)
	p.wantStatus(p.open(false, postRoot...), "200")
}

// TestReadAfterHandler checks that a Read in another goroutine ends with the handler.
func TestReadAfterHandler(t *testing.T) {
	got := make(chan error)
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		go func() {
			_, err := io.Copy(io.Discard, r.Body)
			got <- err
		}()
	})
	p := dial(t, addr)
	p.wantStatus(p.open(false, postRoot...), "200")
	if err := <-got; !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("Read returned %v", err)
	}
}

// piecewise is a source that tells how much it has.
type piecewise struct {
	pieces chan string
	have   string
}

func (s *piecewise) Read(p []byte) (int, error) {
	if s.have == "" {
		var ok bool
		if s.have, ok = <-s.pieces; !ok {
			return 0, io.EOF
		}
	}
	n := copy(p, s.have)
	s.have = s.have[n:]
	return n, nil
}

func (s *piecewise) Buffered() int { return len(s.have) }

// TestReadFrom checks that what a source has is sent when more would have to be
// waited for.
func TestReadFrom(t *testing.T) {
	src := &piecewise{pieces: make(chan string)}
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		n, err := w.(io.ReaderFrom).ReadFrom(src)
		if n != 50_008 || err != nil || w.(interface{ Written() int64 }).Written() != n {
			t.Errorf("ReadFrom: %d, %v", n, err)
		}
		if w.(interface{ Status() int }).Status() != 200 {
			t.Error("no status")
		}
	})
	p := dial(t, addr)
	id := p.open(true, getRoot...)
	data := func() string {
		return string(p.want("DATA", func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }).(*http2.DataFrame).Data())
	}
	src.pieces <- "abc"
	p.wantStatus(id, "200")
	if d := data(); d != "abc" {
		t.Errorf("sent %q", d)
	}
	src.pieces <- "defgh"
	if d := data(); d != "defgh" {
		t.Errorf("sent %q", d)
	}
	go func() {
		src.pieces <- strings.Repeat("x", 50_000)
		close(src.pieces)
	}()
	if b, _ := p.wantEnd(id); !bytes.Equal(b, bytes.Repeat([]byte("x"), 50_000)) {
		t.Errorf("%d bytes came", len(b))
	}
}

// TestOneWrite checks that a small answer is one write, and one record of TLS.
func TestOneWrite(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "small") })
	p := dial(t, addr)
	p.ping()
	p.open(true, getRoot...)
	p.c.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 4096)
	n, err := p.c.Read(b)
	if err != nil || !bytes.HasSuffix(b[:n], []byte("small")) || b[3] != frameHeaders {
		t.Errorf("the first read is %q, %v", b[:n], err)
	}
}
