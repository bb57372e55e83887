package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// everyPath is each built-in path in each of its shapes.
var everyPath = []routeKey{
	{pathDirect, ""}, {pathSplice, ""}, {pathCopy, ""}, {pathTLS, ""}, {pathNetHTTP2, ""}, {pathOurs, ""}, {pathAgent, ""},
	{pathSplice, sidePassThrough}, {pathCopy, sidePassThrough}, {pathOurs, sidePassThrough}, {pathOurs, sideSameNode},
}

func (k routeKey) String() string { return strings.TrimSuffix(k.path+" "+k.single, " ") }

// newFleet runs on the loopback of the test's own network namespace, so that the test itself can connect.
func newFleet(t *testing.T, cfg Config) *fleet {
	t.Helper()
	cfg.NoNamespace, cfg.LetSleep = true, true
	cfg.setDefaults()
	f, _, err := openFleet(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	return f
}

func (f *fleet) mustOpen(t *testing.T, k routeKey, target string) *route {
	t.Helper()
	r, err := f.openRoute(t.Context(), k.path, k.single, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

// Bytes go up, a half-close follows them, and as many come back after it.
func TestPathsAreFaithful(t *testing.T) {
	f := newFleet(t, Config{})
	for _, k := range everyPath {
		t.Run(k.String(), func(t *testing.T) {
			r := f.mustOpen(t, k, f.target)
			if err := f.check(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
}

// The server ends its direction first, and what the client sends afterwards still arrives.
func TestPathsKeepTheServersHalfClose(t *testing.T) {
	f := newFleet(t, Config{})
	for _, k := range everyPath {
		if k.path == pathNetHTTP2 {
			continue // a net/http handler ends its response only by returning, which ends the request too
		}
		t.Run(k.String(), func(t *testing.T) {
			l, received := listen(t, func(c *net.TCPConn) []byte {
				c.Write([]byte("done"))
				c.CloseWrite()
				all, err := io.ReadAll(c)
				if err != nil {
					t.Errorf("server: %v", err)
				}
				return all
			})
			c := dialTest(t, f.mustOpen(t, k, l).entry)
			if got, err := io.ReadAll(c); err != nil || string(got) != "done" {
				t.Fatalf("client read %q, %v; want %q and the end", got, err, "done")
			}
			sent := bytes.Repeat([]byte("later"), 50_000)
			if _, err := c.Write(sent); err != nil {
				t.Fatalf("write after the server's half-close: %v", err)
			}
			c.CloseWrite()
			if got := <-received; !bytes.Equal(got, sent) {
				t.Errorf("server got %d bytes after its half-close, want %d", len(got), len(sent))
			}
		})
	}
}

// A server that refuses must never look like one that answered nothing and ended.
func TestPathsResetWhenTheServerRefuses(t *testing.T) {
	f := newFleet(t, Config{})
	l, err := net.Listen("tcp4", "127.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := l.Addr().String()
	l.Close()
	for _, k := range everyPath {
		if k.path == pathDirect {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			c, err := net.Dial("tcp4", f.mustOpen(t, k, refusing).entry)
			if err != nil {
				return // the reset was faster
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(settleTimeout))
			if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("read: %v, want a reset", err)
			}
		})
	}
}

// listen serves one connection and hands on what serve returns.
func listen(t *testing.T, serve func(*net.TCPConn) []byte) (addr string, result <-chan []byte) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.4:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	results := make(chan []byte, 1)
	go func() {
		defer close(results)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(settleTimeout))
		results <- serve(c.(*net.TCPConn))
	}()
	return l.Addr().String(), results
}

func dialTest(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(settleTimeout))
	return c.(*net.TCPConn)
}

// A path that loses a byte must fail its check, or the check proves nothing.
func TestCheckSeesALossyPath(t *testing.T) {
	f := newFleet(t, Config{})
	for name, harm := range map[string]func([]byte) []byte{
		"loses a byte":    func(b []byte) []byte { return b[:len(b)-1] },
		"changes a byte":  func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"repeats a byte":  func(b []byte) []byte { return append(b, b[len(b)-1]) },
		"drops the close": nil,
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := listen(t, func(c *net.TCPConn) []byte {
				next := dialTest(t, f.target)
				head := make([]byte, 9)
				io.ReadFull(c, head)
				size := binary.BigEndian.Uint64(head[1:])
				next.Write(head)
				body := make([]byte, size)
				io.ReadFull(c, body)
				if harm == nil {
					next.Write(body)
					c.CloseWrite() // and nothing comes back, for the server waits for the end
					return nil
				}
				next.Write(harm(body))
				next.CloseWrite()
				io.Copy(c, next)
				return nil
			})
			err := f.client.Call(t.Context(), "check", checkOrder{Target: l, Size: 100_000}, nil)
			if err == nil {
				t.Error("the check passed")
			}
		})
	}
}

// Every kind of case yields each of its metrics on ours and leaves nothing running.
func TestRunMeasuresEveryKindOfCase(t *testing.T) {
	rep, err := Run(t.Context(), Config{
		Rounds: 1, Duration: 150 * time.Millisecond, Paths: []string{pathOurs},
		Cases: []string{"bulk-up-8", "bulk-down-8", "pingpong-64-8", "connect-*", "mixed-*", "stalled-*", "idle-1000", "pass-*", "same-*"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rep.Cases {
		if row.Ours == nil {
			t.Errorf("%s has no value", row.Case)
		}
	}
	if t.Failed() {
		t.Logf("notes: %q", rep.Notes)
	}
	noWorkersLeft(t)
}

func TestRunEndsItsProcessesWhenInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	first := &firstWrite{then: cancel}
	_, err := Run(ctx, Config{Rounds: 1000, Duration: 20 * time.Millisecond, Cases: []string{"bulk-up-1"}, Paths: []string{pathOurs}, Progress: first})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want %v", err, context.Canceled)
	}
	noWorkersLeft(t)
}

// firstWrite calls then when something is first written.
type firstWrite struct{ then func() }

func (w *firstWrite) Write(b []byte) (int, error) {
	w.then()
	return len(b), nil
}

// noWorkersLeft looks for children of this process that are not its own fleet's: Run waits for all of them.
func noWorkersLeft(t *testing.T) {
	t.Helper()
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for _, pid := range strings.Fields(string(children)) {
			line, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			t.Errorf("process %s is still there: %q", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		}
	}
}

func TestPeerIsMeasuredAndEnded(t *testing.T) {
	// An external program that is sure to exist: this test's own splice proxy, told by its input what to be.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	order := `{"do":"serve","arg":{"path":"splice","side":"pass-through","listen":"{listen}","next":"{forward}","target":"{forward}"}}`
	command := "(echo '" + order + "'; exec sleep 600) | " + self + " bench worker agent"
	rep, err := Run(t.Context(), Config{
		Rounds: 1, Duration: 20 * time.Millisecond, Cases: []string{"bulk-up-1"}, Paths: []string{pathOurs}, Peers: []Peer{{Name: "other", Command: command}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rep.Cases {
		if row.Case == "bulk-up-1" && row.VsPeers["other"] == nil {
			t.Errorf("the peer was not measured; notes: %q", rep.Notes)
		}
	}
	noWorkersLeft(t)
}

func TestPeerThatNeverServesIsNamed(t *testing.T) {
	rep, err := Run(t.Context(), Config{
		Rounds: 1, Duration: 20 * time.Millisecond, Cases: []string{"bulk-up-1"}, Paths: []string{pathOurs},
		Peers: []Peer{{Name: "broken", Command: "echo no such option >&2; false {listen} {forward}"}},
	})
	if err != nil {
		t.Fatalf("one broken peer ended the run: %v", err)
	}
	notes := strings.Join(rep.Notes, "\n")
	if !strings.Contains(notes, "broken") || !strings.Contains(notes, "no such option") {
		t.Errorf("notes do not tell what the peer said: %q", notes)
	}
}
