package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A client that sends the header of a request and waits gets what the backend says
// to it: an answer, or the end.
func TestAnswerToTheHeader(t *testing.T) {
	const header = "POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n"
	for _, c := range []struct {
		name, answer string
		status       int
		body, flags  string
	}{
		{"with a body", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", 401, "no", ""},
		{"without", "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, "", ""},
		{"none", "", 503, "upstream closed the connection before it answered\n", "UC"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t, one(rawBackend(t, func(b net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(b)); err != nil {
					t.Errorf("the backend wants the header: %v", err)
				}
				_, _ = io.WriteString(b, c.answer)
			})), toA())
			conn, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, _ = io.WriteString(conn, header)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if res.StatusCode != c.status || string(body) != c.body || err != nil {
				t.Errorf("%d %q, %v", res.StatusCode, body, err)
			}
			if x := e.last(1); x.Status != c.status || x.Flags != c.flags {
				t.Errorf("record: %d %s %s", x.Status, x.Flags, x.Detail)
			}
		})
	}
}
