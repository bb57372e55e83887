package h1

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// ask sends a request whose answer is given.
func ask(t testing.TB, method, answer string, end bool) (*ClientConn, *http.Response, error) {
	t.Helper()
	cc, p := connect(t, ClientOptions{})
	go func() {
		p.head()
		io.WriteString(p, answer) // who is refused may be gone before the end
		if end {
			p.Conn.(*net.TCPConn).CloseWrite()
		}
	}()
	resp, err := cc.RoundTrip(request(t, method, ""))
	return cc, resp, err
}

// Answers that two readers could take for different ones.
func TestMalformedAnswer(t *testing.T) {
	ok := func(fields ...string) string {
		return "HTTP/1.1 200 OK\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"
	}
	for _, c := range []struct{ name, answer string }{
		{"both lengths", ok("Content-Length: 5", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		{"differing lengths", ok("Content-Length: 5", "Content-Length: 6") + "hello!"},
		{"equal lengths twice", ok("Content-Length: 5", "Content-Length: 5") + "hello"},
		{"list of lengths", ok("Content-Length: 5, 5") + "hello"},
		{"signed length", ok("Content-Length: +5") + "hello"},
		{"coding that is almost chunked", ok("Transfer-Encoding: xchunked")},
		{"coding that is not known", ok("Transfer-Encoding: gzip, chunked")},
		{"chunked in two lines", ok("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + "0\r\n\r\n"},
		{"coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"space before the colon", ok("Content-Length : 5") + "hello"},
		{"folded", ok("X: a", " b")},
		{"bare LF", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"},
		{"bare LF in the header", "HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n"},
		{"bare CR", ok("X: a\rb")},
		{"NUL", ok("X: a\x00b")},
		{"no colon", ok("X")},
		{"other protocol", "SSH-2.0-OpenSSH_9.2\r\n"},
		{"no status", "HTTP/1.1\r\n\r\n"},
		{"status of two digits", "HTTP/1.1 20 OK\r\n\r\n"},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n"},
		{"status below 100", "HTTP/1.1 099 OK\r\n\r\n"},
		{"status that is none", "HTTP/1.1 2x0 OK\r\n\r\n"},
		{"two spaces", "HTTP/1.1  200 OK\r\n\r\n"},
		{"control character in the reason", "HTTP/1.1 200 O\x01K\r\n\r\n"},
		{"version 1.2", "HTTP/1.2 200 OK\r\n\r\n"},
		{"version 2", "HTTP/2.0 200 OK\r\n\r\n"},
		{"lower-case version", "http/1.1 200 OK\r\n\r\n"},
		{"empty line first", "\r\n" + ok("Content-Length: 0")},
		{"upgrade that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"},
		{"too much information", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", maxInforms+1) + ok("Content-Length: 0")},
		{"long header", ok("X: " + strings.Repeat("y", 70<<10))},
		{"long header that does not end", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 70<<10)},
		{"many fields", ok(strings.Repeat("X: y\r\n", 100) + "X: y")},
	} {
		t.Run(c.name, func(t *testing.T) {
			cc, resp, err := ask(t, "GET", c.answer, true)
			var cerr *ClientError
			var perr *ProtocolError
			if !errors.As(err, &cerr) || !errors.As(err, &perr) || !cerr.Wrote || !cerr.Received {
				t.Fatalf("got %v, %v", resp, err)
			}
			if cc.Reusable() {
				t.Error("the connection would be used again")
			}
		})
	}
	// Bodies share their reader with the server's, where the table is.
	for _, body := range []string{"5\r\nhelloX", "+5\r\n", "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"} {
		cc, resp, err := ask(t, "GET", ok("Transfer-Encoding: chunked")+body, true)
		if err != nil {
			t.Fatal(err)
		}
		var perr *ProtocolError
		if b, err := io.ReadAll(resp.Body); !errors.As(err, &perr) {
			t.Errorf("body %q: read %q, %v", body, b, err)
		}
		if cc.Reusable() {
			t.Error("the connection would be used again")
		}
	}
}

// Answers that are well-formed, what is read of them, and whether the connection
// can carry another.
func TestAnswerRead(t *testing.T) {
	for _, c := range []struct {
		name, method, answer string
		end                  bool
		want                 string
		reusable             bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, `200 OK 5 "hello" <nil> map[]`, true},
		{"no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", false, `200  0 "" <nil> map[]`, true},
		{"no space behind the status", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", false, `200 0 "" <nil> map[]`, true},
		{"chunks", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x\r\n!\r\n0\r\n\r\n", false, `200 OK -1 "hello!" <nil> map[]`, true},
		{"trailer", "GET", "HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n", false, `200 OK -1 "" <nil> map[X:[y]]`, true},
		{"until the end", "GET", "HTTP/1.1 200 OK\r\n\r\nhello", true, `200 OK -1 "hello" <nil> map[]`, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, `200 OK 5 "hello" <nil> map[]`, false},
		{"HTTP/1.0 that stays", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", false, `200 OK 5 "hello" <nil> map[]`, true},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 5\r\n\r\nhello", false, `200 OK 5 "hello" <nil> map[]`, false},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, `200 OK 5 "" <nil> map[]`, true},
		{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, `200 OK -1 "" <nil> map[]`, true},
		{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", false, `204 No Content 0 "" <nil> map[]`, true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, `304 Not Modified 0 "" <nil> map[]`, true},
		{"information first", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, `200 OK 0 "" <nil> map[]`, true},
		{"more than promised", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!", false, `200 OK 5 "hello" <nil> map[]`, false},
		{"body of 204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", false, `204 No Content 0 "" <nil> map[]`, false},
		{"body of HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, `200 OK 5 "" <nil> map[]`, false},
		{"two answers", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, `200 OK 0 "" <nil> map[]`, false},
		{"less than promised", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", true, `200 OK 6 "hello" h1: in the answer: unexpected EOF map[]`, false},
		{"chunks that do not end", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true, `200 OK -1 "hello" h1: in the answer: unexpected EOF map[]`, false},
		{"large header", "GET", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 50<<10) + "\r\nContent-Length: 5\r\n\r\nhello", false, `200 OK 5 "hello" <nil> map[]`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cc, resp, err := ask(t, c.method, c.answer, c.end)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(resp.Body)
			if got := fmt.Sprintf("%s %d %q %v %v", resp.Status, resp.ContentLength, b, err, resp.Trailer); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			resp.Body.Close()
			if got := cc.Reusable(); got != c.reusable {
				t.Errorf("reusable: %v", got)
			}
		})
	}
}
