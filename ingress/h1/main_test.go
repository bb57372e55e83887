package h1

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test; nothing is asserted about speed.
const patience = 10 * time.Second

// serve serves connections on loopback until the test ends, and returns the
// address.
func serve(t testing.TB, s *Server, h http.Handler) string {
	t.Helper()
	return serveContext(t, context.Background(), s, h)
}

func serveContext(t testing.TB, ctx context.Context, s *Server, h http.Handler) string {
	t.Helper()
	return listen(t, func(c net.Conn) { s.ServeConn(ctx, c, h) })
}

// listen accepts connections on loopback until the test ends; the test waits for
// all of them.
func listen(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// dial connects to addr; everything on the connection has to happen in time.
func dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { c.Close() })
	return c
}

// talk sends what is given, raw, and returns all that comes until the end of the
// connection.
func talk(t testing.TB, addr, send string) string {
	t.Helper()
	c := dial(t, addr)
	if _, err := io.WriteString(c, send); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("the server should end the connection: %v; so far %q", err, got)
	}
	return string(got)
}

// rawPeer is the other end of a connection, by hand.
type rawPeer struct {
	t testing.TB
	net.Conn
	in *bufio.Reader
}

func newRawPeer(t testing.TB, c net.Conn) *rawPeer { return &rawPeer{t, c, bufio.NewReader(c)} }

func (p *rawPeer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.Conn, s); err != nil {
		p.t.Error(err)
	}
}

// head reads a head, whose lines it returns.
func (p *rawPeer) head() []string {
	p.t.Helper()
	var lines []string
	for {
		line, err := p.in.ReadString('\n')
		if err != nil {
			p.t.Errorf("reading a head: %v; so far %q", err, lines)
			return lines
		}
		if line = strings.TrimSuffix(line, "\r\n"); line == "" {
			return lines
		}
		lines = append(lines, line)
	}
}

// expect reads exactly s.
func (p *rawPeer) expect(s string) {
	p.t.Helper()
	b := make([]byte, len(s))
	n, err := io.ReadFull(p.in, b)
	if string(b[:n]) != s {
		p.t.Errorf("got %q (%v), want %q", b[:n], err, s)
	}
}

// field is the value of a field in a head's lines; "" if it is not there once.
func field(lines []string, name string) string {
	var value string
	n := 0
	for _, l := range lines {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.EqualFold(k, name) {
			value = strings.TrimSpace(v)
			n++
		}
	}
	if n != 1 {
		return ""
	}
	return value
}

// eventually waits for a condition.
func eventually(t testing.TB, why string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + why)
		}
	}
}
