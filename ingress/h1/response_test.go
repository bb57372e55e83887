package h1

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// How the end of an answer is told. Date is left out of what is compared.
func TestAnswer(t *testing.T) {
	type w = http.ResponseWriter
	for _, c := range []struct {
		name, send string
		handle     func(w w, r *http.Request)
		want       string
	}{
		{"nothing", "GET / HTTP/1.1", func(w w, r *http.Request) {}, "200 OK|Content-Length: 0||+"},
		{"small", "GET / HTTP/1.1", func(w w, r *http.Request) { io.WriteString(w, "hello") }, "200 OK|Content-Length: 5||hello+"},
		{"in pieces", "GET / HTTP/1.1", func(w w, r *http.Request) { io.WriteString(w, "hel"); w.Write([]byte("lo")) }, "200 OK|Content-Length: 5||hello+"},
		{"status without a name", "GET / HTTP/1.1", func(w w, r *http.Request) { w.WriteHeader(299) }, "299 |Content-Length: 0||+"},
		{"second status", "GET / HTTP/1.1", func(w w, r *http.Request) { w.WriteHeader(404); w.WriteHeader(200) }, "404 Not Found|Content-Length: 0||+"},
		{"own length", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "hello")
		}, "200 OK|Content-Length: 5||hello+"},
		{"own length that is none", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "+5")
			io.WriteString(w, "hello")
		}, "200 OK|Content-Length: 5||hello+"},
		{"less than promised", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "6")
			io.WriteString(w, "hello")
		}, "200 OK|Content-Length: 6||hello-"},
		{"more than promised", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			if n, err := io.WriteString(w, "hello!"); n != 0 || err != http.ErrContentLength {
				t.Errorf("wrote %d, %v", n, err)
			}
			if n, err := io.Copy(w, strings.NewReader("hello!")); n != 0 || err != http.ErrContentLength {
				t.Errorf("copied %d, %v", n, err)
			}
			io.WriteString(w, "hello")
		}, "200 OK|Content-Length: 5||hello+"},
		{"flushed", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.(http.Flusher).Flush()
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			w.(http.Flusher).Flush()
			io.WriteString(w, " world")
		}, "200 OK|Transfer-Encoding: chunked||5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n+"},
		{"flushed to HTTP/1.0", "GET / HTTP/1.0", func(w w, r *http.Request) {
			w.(http.Flusher).Flush()
			io.WriteString(w, "hello")
		}, "200 OK|Connection: close||hello-"},
		{"HTTP/1.0", "GET / HTTP/1.0", func(w w, r *http.Request) { io.WriteString(w, "hello") }, "200 OK|Connection: close|Content-Length: 5||hello-"},
		{"HTTP/1.0 that stays", "GET / HTTP/1.0\r\nConnection: Keep-Alive", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "hello")
		}, "200 OK|Connection: keep-alive|Content-Length: 5||hello+"},
		{"HTTP/1.0 that would stay", "GET / HTTP/1.0\r\nConnection: Keep-Alive", func(w w, r *http.Request) { io.WriteString(w, "hello") },
			"200 OK|Connection: close|Content-Length: 5||hello-"},
		{"client closes", "GET / HTTP/1.1\r\nConnection: x,  Close", func(w w, r *http.Request) {}, "200 OK|Connection: close|Content-Length: 0||-"},
		{"handler closes", "GET / HTTP/1.1", func(w w, r *http.Request) { w.Header().Set("Connection", "close") }, "200 OK|Connection: close|Content-Length: 0||-"},
		{"coding of the handler", "GET / HTTP/1.1", func(w w, r *http.Request) { w.Header().Set("Transfer-Encoding", "chunked") }, "200 OK|Content-Length: 0||+"},
		{"HEAD", "HEAD / HTTP/1.1", func(w w, r *http.Request) { io.WriteString(w, "hello") }, "200 OK||+"},
		{"HEAD with a length", "HEAD / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "50")
			if n, err := io.Copy(w, strings.NewReader("hello")); n != 5 || err != nil {
				t.Errorf("copied %d, %v", n, err)
			}
		}, "200 OK|Content-Length: 50||+"},
		{"204", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "hello"); err != http.ErrBodyNotAllowed {
				t.Errorf("writing a body to 204: %v", err)
			}
		}, "204 No Content||+"},
		{"304", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			w.WriteHeader(304)
		}, "304 Not Modified|Content-Length: 5||+"},
		{"values that are none", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header()["X"] = []string{"a\r\nSet-Cookie: b\x00"}
			w.Header()["X: y\r\nZ"] = []string{"b"}
		}, "200 OK|Content-Length: 0|X: a  Set-Cookie: b ||+"},
		{"informed", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Link", "<a>")
			w.WriteHeader(103)
			w.Header().Del("Link")
			w.WriteHeader(200)
		}, "103 Early Hints|Link: <a>||HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n+"},
		{"not informed, in HTTP/1.0", "GET / HTTP/1.0", func(w w, r *http.Request) { w.WriteHeader(103) }, "200 OK|Connection: close|Content-Length: 0||-"},
		{"trailer", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum, Content-Length")
			io.WriteString(w, "hello")
			w.Header().Set("X-Sum", "1")
			w.Header().Set("X-Late", "lost")
		}, "200 OK|Trailer: X-Sum, Content-Length|Transfer-Encoding: chunked||5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n+"},
		{"trailer that was not announced", "GET / HTTP/1.1", func(w w, r *http.Request) {
			io.WriteString(w, "hello")
			w.Header().Set(http.TrailerPrefix+"grpc-status", "0")
			w.Header().Set(http.TrailerPrefix+"host", "b")
		}, "200 OK|Transfer-Encoding: chunked||5\r\nhello\r\n0\r\nGrpc-Status: 0\r\n\r\n+"},
		{"trailer without a body", "GET / HTTP/1.1", func(w w, r *http.Request) {
			w.WriteHeader(200)
			w.Header().Set(http.TrailerPrefix+"X", "0")
		}, "200 OK|Transfer-Encoding: chunked||0\r\nX: 0\r\n\r\n+"},
		{"trailer to HTTP/1.0", "GET / HTTP/1.0", func(w w, r *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			io.WriteString(w, "hello")
			w.Header().Set("X-Sum", "1")
		}, "200 OK|Connection: close|Content-Length: 5||hello-"},
		{"abort", "GET / HTTP/1.1", func(w w, r *http.Request) {
			io.WriteString(w, "hello")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, "200 OK|Transfer-Encoding: chunked||5\r\nhello\r\n-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/" {
					c.handle(w, r)
				} else {
					w.Header().Set("Connection", "close")
				}
			}))
			got := talk(t, addr, c.send+"\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n")
			const next = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
			got = undated(got)
			if i := strings.LastIndex(got, next); i > 0 {
				got = got[:i] + "+"
			} else {
				got += "-"
			}
			if got = strings.TrimPrefix(got, "HTTP/1.1 "); readable(got) != c.want {
				t.Errorf("got  %q\nwant %q", readable(got), c.want)
			}
		})
	}
}

// undated leaves the lines of Date out.
func undated(s string) string {
	lines := strings.SplitAfter(s, "\r\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "Date: ") }), "")
}

// readable sorts the lines of the first head and joins them with bars.
func readable(s string) string {
	head, rest, ok := strings.Cut(s, "\r\n\r\n")
	if !ok {
		return s
	}
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines[1:])
	return strings.Join(lines, "|") + "||" + rest
}

// Bodies of every size around the buffer's, written in every way, arrive.
func TestAnswerSizes(t *testing.T) {
	body := make([]byte, 300<<10)
	for i := range body {
		body[i] = byte(i * 7)
	}
	ways := map[string]func(w http.ResponseWriter, b []byte) (int64, error){
		"Write": func(w http.ResponseWriter, b []byte) (int64, error) { n, err := w.Write(b); return int64(n), err },
		"String": func(w http.ResponseWriter, b []byte) (int64, error) {
			n, err := w.(io.StringWriter).WriteString(string(b))
			return int64(n), err
		},
		"ReadFrom": func(w http.ResponseWriter, b []byte) (int64, error) {
			return io.Copy(w, struct{ io.Reader }{strings.NewReader(string(b))})
		},
		"Pieces": func(w http.ResponseWriter, b []byte) (n int64, _ error) {
			for len(b) > 0 {
				k, err := w.Write(b[:min(len(b), 5000)])
				if n += int64(k); err != nil {
					return n, err
				}
				b = b[k:]
			}
			return n, nil
		},
	}
	addr := serve(t, &Server{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		fmt.Sscan(r.Header.Get("N"), &n)
		if r.Header.Get("Known") != "" {
			w.Header().Set("Content-Length", fmt.Sprint(n))
		}
		if k, err := ways[r.Header.Get("Way")](w, body[:n]); k != int64(n) || err != nil {
			t.Errorf("wrote %d, %v", k, err)
		}
		if got := w.(interface{ Written() int64 }).Written(); got != int64(n) {
			t.Errorf("Written is %d after %d", got, n)
		}
	}))
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for way := range ways {
		for _, known := range []string{"", "yes"} {
			for _, n := range []int{0, 1, 15, 4096, 15 << 10, bufferSize - 200, bufferSize - 100, bufferSize - 50, bufferSize - 8,
				bufferSize - 7, bufferSize - 1, bufferSize, bufferSize + 1, 2 * bufferSize, len(body)} {
				req, _ := http.NewRequest("GET", "http://"+addr, nil)
				req.Header.Set("N", fmt.Sprint(n))
				req.Header.Set("Way", way)
				if known != "" {
					req.Header.Set("Known", known)
				}
				resp, err := tr.RoundTrip(req)
				if err != nil {
					t.Fatalf("%s of %d: %v", way, n, err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != string(body[:n]) {
					t.Errorf("%s of %d: %d bytes arrived, %v", way, n, len(got), err)
				}
				if known != "" && resp.ContentLength != int64(n) {
					t.Errorf("%s of %d: length %d", way, n, resp.ContentLength)
				}
			}
		}
	}
}
