package ask_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"github.com/adit-mesh/adit/agent/enrol/ask"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var request = ask.Request{
	Command: ask.Add, Namespace: "default", Name: "web-0", UID: "0b9c7ab4-9c1d-4ad0-9df1-6f1c2a0b5a55",
	ContainerID: "c0ffee", Netns: "/var/run/netns/cni-1",
	Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:244::7")},
}

func listen(t *testing.T) (*net.UnixListener, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, path
}

// agent lets f answer each connection until the test ends.
func agent(t *testing.T, l *net.UnixListener, f func(n int, c *net.UnixConn)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			f(n, c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestRequestAndNamespaceArrive(t *testing.T) {
	netns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer netns.Close()
	l, path := listen(t)
	agent(t, l, func(_ int, c *net.UnixConn) {
		r, f, err := ask.Receive(c)
		if err != nil || f == nil {
			t.Errorf("received %+v, file %v, error %v", r, f, err)
			return
		}
		defer f.Close()
		if diff := cmp.Diff(request, r, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("request (-sent +received):\n%s", diff)
		}
		if inode(t, f) != inode(t, netns) {
			t.Error("another file came than was sent")
		}
		if err := ask.Answer(c, ask.Reply{OK: true}); err != nil {
			t.Error(err)
		}
	})
	if err := ask.Agent(short(t), path, time.Second, request, netns); err != nil {
		t.Error(err)
	}
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestRefusalIsFinal(t *testing.T) {
	l, path := listen(t)
	var asked atomic.Int32
	long := strings.Repeat("\x00", 1<<20)
	agent(t, l, func(n int, c *net.UnixConn) {
		asked.Add(1)
		if _, f, err := ask.Receive(c); f != nil || err != nil {
			t.Errorf("file %v, error %v", f, err)
		}
		_ = ask.Answer(c, ask.Reply{Error: []string{"no certificate", long}[n]})
	})
	refused := new(ask.RefusedError)
	err := ask.Agent(short(t), path, 10*time.Second, request, nil)
	if !errors.As(err, &refused) || refused.Reason != "no certificate" {
		t.Errorf("the answer is %v; want the agent's reason", err)
	}
	if err := ask.Agent(short(t), path, 10*time.Second, request, nil); !errors.As(err, &refused) || len(refused.Reason) < 1000 {
		t.Errorf("a long reason arrives as %.100v; want its beginning", err)
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("asked %d times; an answer is not asked for again", n)
	}
}

// An agent that restarts while it is being asked is asked again.
func TestRestartedAgentIsAskedAgain(t *testing.T) {
	l, path := listen(t)
	agent(t, l, func(n int, c *net.UnixConn) {
		_, _, err := ask.Receive(c)
		if err != nil {
			t.Error(err)
		}
		if n == 2 {
			_ = ask.Answer(c, ask.Reply{OK: true})
		}
	})
	if err := ask.Agent(short(t), path, 10*time.Second, request, nil); err != nil {
		t.Errorf("after two agents that went away: %v", err)
	}
}

func TestAgentThatComesLater(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	answered := make(chan error, 1)
	ctx := short(t)
	go func() { answered <- ask.Agent(ctx, path, 10*time.Second, request, nil) }()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	agent(t, l, func(_ int, c *net.UnixConn) {
		_, _, _ = ask.Receive(c)
		_ = ask.Answer(c, ask.Reply{OK: true})
	})
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestAgentAway(t *testing.T) {
	err := ask.Agent(short(t), filepath.Join(t.TempDir(), "s"), 250*time.Millisecond, request, nil)
	if !errors.Is(err, ask.ErrAway) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a socket: %v; want ErrAway and why", err)
	}
	l, path := listen(t)
	l.SetUnlinkOnClose(false)
	l.Close()
	err = ask.Agent(short(t), path, 250*time.Millisecond, request, nil)
	if !errors.Is(err, ask.ErrAway) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("with a stale socket: %v; want ErrAway and why", err)
	}
}

func TestAgentThatHangs(t *testing.T) {
	l, path := listen(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	agent(t, l, func(_ int, c *net.UnixConn) { <-ctx.Done(); _, _, _ = ask.Receive(c) })
	err := ask.Agent(ctx, path, time.Hour, request, nil)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ask.ErrAway) {
		t.Errorf("an agent that does not answer: %v; want the deadline", err)
	}
}

// What nobody should send is refused, and no file of it stays open.
func TestStrangeMessages(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := int(file.Fd())
	good, _ := json.Marshal(request)
	for _, test := range []struct {
		name    string
		message []byte
		files   int
		want    string
	}{
		{"not JSON", []byte("hello"), 1, "not a request"},
		{"two namespaces", good, 2, "2 files"},
		{"many files", good, 100, "more files"},
		{"too long", []byte(`{"command": "ADD", "name": "` + strings.Repeat("x", 20<<10) + `"}`), 1, "longer than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, path := listen(t)
			c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fds := make([]int, test.files)
			for i := range fds {
				fds[i] = fd
			}
			if _, _, err := c.WriteMsgUnix(test.message, syscall.UnixRights(fds...), nil); err != nil {
				t.Fatal(err)
			}
			server, err := l.AcceptUnix()
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			before := openFiles(t)
			_, f, err := ask.Receive(server)
			if f != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("file %v, error %v; want %q", f, err, test.want)
			}
			if after := openFiles(t); after != before {
				t.Errorf("%d files are open, %d were before", after, before)
			}
		})
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestParse(t *testing.T) {
	for _, test := range []struct{ message, want string }{
		{`{"command": "ADD", "namespace": "a", "name": "b", "addresses": ["10.0.0.1", "::ffff:10.0.0.2"], "of the future": 1}`, ""},
		{`{"command": "DEL", "namespace": "a", "name": "b"}`, ""},
		{`{"command": "STATUS"}`, ""},
		{`{"command": "GC", "namespace": "a", "name": "b"}`, "unknown command"},
		{`{"namespace": "a", "name": "b"}`, "unknown command"},
		{`{"command": "ADD", "name": "b"}`, "no name"},
		{`{"command": "ADD", "namespace": "a", "name": "b\n"}`, "characters"},
		{`{"command": "ADD", "namespace": "a", "name": "b", "uid": "` + strings.Repeat("u", 129) + `"}`, "too long"},
		{`{"command": "ADD", "namespace": "a", "name": "b", "addresses": [""]}`, "not an address"},
		{`{"command": "ADD", "namespace": "a", "name": "b", "addresses": ["127.0.0.1"]}`, "not an address"},
		{`{"command": "ADD", "namespace": "a", "name": "b", "addresses": ["fe80::1%eth0"]}`, "not an address"},
		{`{"command": "ADD", "namespace": "a", "name": "b", "addresses": [` + strings.Repeat(`"10.0.0.1",`, 64) + `"10.0.0.1"]}`, "65 addresses"},
		{`[]`, "not a request"},
	} {
		r, err := ask.Parse([]byte(test.message))
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%.80s: %+v, %v; want %q", test.message, r, err, test.want)
		}
		for _, a := range r.Addresses {
			if a.Is4In6() {
				t.Errorf("%s is an IPv4 address in disguise", a)
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	good, _ := json.Marshal(request)
	f.Add(good)
	f.Add([]byte(`{"command": "STATUS"}`))
	f.Add([]byte(`{"command": "ADD", "namespace": "a", "name": "b", "addresses": ["::ffff:10.0.0.2"]}`))
	f.Fuzz(func(t *testing.T, message []byte) {
		r, err := ask.Parse(message)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if r2, err := ask.Parse(again); err != nil || !cmp.Equal(r, r2, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
			t.Fatalf("%s is read as %+v, which is read as %+v, %v", message, r, r2, err)
		}
		if r.Command != ask.Status && (strings.ContainsAny(r.Namespace+r.Name+r.UID+r.ContainerID+r.Netns, "\n\r\x00 ") || len(r.Name) > 253) {
			t.Fatalf("%+v is not safe to log", r)
		}
	})
}
