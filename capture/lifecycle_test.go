package capture_test

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

func TestEnrolAndRemoveLeaveLiveConnectionsAlone(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		w.app(w.b, fam.port(w.b, appPort))
		w.app(w.c, fam.port(w.c, appPort))
		in := w.mustCall("before enrolment", w.c, fam.port(w.b, appPort), fam.of(w.c))
		out := w.mustCall("before enrolment", w.b, fam.port(w.c, appPort), fam.of(w.b))

		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		w.alive("inbound, after enrolment", in)
		w.alive("outbound, after enrolment", out)
		b.wantNone("connections from before")
		capturedIn := w.mustCall("after enrolment", w.c, fam.port(w.b, appPort), fam.of(w.c))
		capturedOut := w.mustCall("after enrolment", w.b, fam.port(w.c, appPort), fam.of(w.b))

		w.must(b.pod.Drain())
		b.forget()
		for why, c := range map[string]*client{"old inbound": in, "old outbound": out, "captured inbound": capturedIn, "captured outbound": capturedOut} {
			w.alive(why+", draining", c)
		}
		drainedIn := w.mustCall("while draining", w.c, fam.port(w.b, appPort), fam.of(w.c))
		drainedOut := w.mustCall("while draining", w.b, fam.port(w.c, appPort), fam.of(w.b))
		b.wantNone("new connections while draining")

		capturedIn.Close()
		capturedOut.Close()
		w.must(b.pod.Remove())
		w.must(b.pod.Remove())
		for why, c := range map[string]*client{"old inbound": in, "old outbound": out, "drained inbound": drainedIn, "drained outbound": drainedOut} {
			w.alive(why+", removed", c)
		}
		w.wantClean(w.b)
	})
}

// A tunnel is not tracked, and draining must not have it tracked from the middle.
func TestDrainKeepsTunnels(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a, b := w.enrol(w.a, capture.Rules{}), w.enrol(w.b, capture.Rules{})
		c, err := a.pod.Dial(a.context(), fam.port(w.b, capture.PortHBONE))
		w.must(err)
		defer c.Close()
		echo(t, c)
		w.must(a.pod.Drain())
		w.must(b.pod.Drain())
		echo(t, c)
		a.wantUntracked("a tunnel while draining", capture.PortHBONE)
		b.wantUntracked("a tunnel while draining", capture.PortHBONE)
	})
}

// wantClean fails if anything of ours is left in a namespace.
func (w *world) wantClean(ns *lab.Namespace) {
	w.t.Helper()
	for _, fam := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := ns.Netlink().RuleList(fam)
		w.must(err)
		for _, r := range rules {
			if r.Table == 100 {
				w.t.Errorf("left behind: %s", r)
			}
		}
		routes, err := ns.Netlink().RouteListFiltered(fam, &netlink.Route{Table: 100}, netlink.RT_FILTER_TABLE)
		w.must(err)
		if len(routes) > 0 {
			w.t.Errorf("left behind: %v", routes)
		}
	}
	if v, err := ns.ReadSysctl("net.ipv4.tcp_fwmark_accept"); err != nil || v != "0" {
		w.t.Errorf("tcp_fwmark_accept is %s (%v) after removal", v, err)
	}
	if tables := w.tables(ns); len(tables) > 0 {
		w.t.Errorf("left behind: tables %v", tables)
	}
}

func TestNobodyListensMeansNoNetwork(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{})
		w.app(w.b, fam.port(w.b, appPort))
		w.app(w.c, fam.port(w.c, appPort))
		w.mustCall("with an agent", w.c, fam.port(w.b, appPort), fam.of(w.c))
		w.must(b.pod.Detach())
		w.must(b.pod.Detach())
		w.mustNotCall("inbound without an agent", w.c, fam.port(w.b, appPort))
		w.mustNotCall("outbound without an agent", w.b, fam.port(w.c, appPort))
		w.mustCall("inside the pod", w.b, fam.port(w.b, appPort), fam.of(w.b))

		next := w.enrol(w.b, capture.Rules{})
		w.mustCall("with the next agent", w.c, fam.port(w.b, appPort), fam.of(w.c))
		w.mustCall("with the next agent", w.b, fam.port(w.c, appPort), fam.of(w.b))
		if !next.pod.Owned() {
			t.Skip("the kernel has no table ownership (6.9)")
		}
	})
}

func TestOnlyOneAgentPerPod(t *testing.T) {
	w := newWorld(t)
	b := w.enrol(w.b, capture.Rules{})
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer n.Close()
	_, err = capture.Enrol(t.Context(), capture.PodConfig{Netns: n})
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "another agent") {
		t.Errorf("a second agent gets %v; want EADDRINUSE and whom to look for", err)
	}
	w.app(w.b, v4.port(w.b, appPort))
	w.mustCall("the first agent goes on", w.c, v4.port(w.b, appPort), v4.of(w.c))
	b.wantOne("the first agent goes on", capture.PortInbound, v4.of(w.c), v4.port(w.b, appPort))
}

func TestEnrolAfterCancel(t *testing.T) {
	w := newWorld(t)
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer n.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := capture.Enrol(ctx, capture.PodConfig{Netns: n}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was cancelled", err)
	}
	w.wantClean(w.b)
}

func TestEnrolWithoutLoopback(t *testing.T) {
	w := newWorld(t)
	w.must(w.b.Down("lo"))
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer n.Close()
	_, err = capture.Enrol(t.Context(), capture.PodConfig{Netns: n})
	if err == nil || !strings.Contains(err.Error(), "lo is down") {
		t.Errorf("got %v, want that lo is down", err)
	}
	w.must(w.b.Up("lo"))
	w.wantClean(w.b)
}

func TestOpenNetns(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	w.must(os.WriteFile(file, nil, 0o600))
	for _, tc := range []struct {
		name, want string
		is         error
	}{
		{"no-such-pod", "is the pod running", fs.ErrNotExist},
		{filepath.Join(dir, "none"), "is the pod running", fs.ErrNotExist},
		{file, "not a network namespace", nil},
		{"/proc/self/ns/mnt", "not a network namespace", nil},
	} {
		n, err := capture.OpenNetns(tc.name)
		if err == nil {
			n.Close()
			t.Errorf("%s opened", tc.name)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) || (tc.is != nil && !errors.Is(err, tc.is)) {
			t.Errorf("%s: %v; want %q", tc.name, err, tc.want)
		}
	}
	byName, err := capture.OpenNetns(filepath.Base(w.b.Path()))
	w.must(err)
	defer byName.Close()
	byPath, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer byPath.Close()
	if byName.Inode() != byPath.Inode() || byName.Inode() == 0 {
		t.Errorf("inodes %d by name, %d by path", byName.Inode(), byPath.Inode())
	}

	own, err := capture.OpenNetns("/proc/thread-self/ns/net")
	w.must(err)
	defer own.Close()
	if _, err := capture.Enrol(t.Context(), capture.PodConfig{Netns: own}); err == nil || !strings.Contains(err.Error(), "hostNetwork") {
		t.Errorf("the agent's own namespace: %v", err)
	}
}

// Do must not leave a thread behind in the pod.
func TestDoComesBack(t *testing.T) {
	w := newWorld(t)
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer n.Close()
	home, err := os.Readlink("/proc/thread-self/ns/net")
	w.must(err)
	for range 100 {
		var inside string
		w.must(n.Do(func() (err error) { inside, err = os.Readlink("/proc/thread-self/ns/net"); return err }))
		if inside == home {
			t.Fatal("f ran outside")
		}
	}
	// A thread of the test's own that ends with its goroutine takes a moment to.
	var away []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
		w.must(err)
		away = away[:0]
		for _, task := range tasks {
			if at, err := os.Readlink(task); err == nil && at != home {
				away = append(away, task+" is in "+at)
			}
		}
		if len(away) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(away) > 0 {
		t.Errorf("threads that have not come home: %s", strings.Join(away, ", "))
	}
	w.must(n.Close())
	w.must(n.Close())
	if err := n.Do(func() error { return nil }); err == nil {
		t.Error("a closed namespace was entered")
	}
}

func TestDialHonoursContext(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		a := w.enrol(w.a, capture.Rules{})
		w.must(w.c.Down("eth0"))
		nobody := netip.AddrPortFrom([]netip.Addr{netip.MustParseAddr("10.244.0.4"), netip.MustParseAddr("fd00:244::4")}[fam], appPort)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := a.pod.Dial(ctx, nobody)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("deadline: %v", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		if _, err := a.pod.Dial(ctx, nobody); !errors.Is(err, context.Canceled) {
			t.Errorf("cancel: %v", err)
		}
		if _, err := a.pod.Dial(ctx, nobody); !errors.Is(err, context.Canceled) {
			t.Errorf("already cancelled: %v", err)
		}
		if _, err := a.pod.Dial(t.Context(), fam.port(w.b, appPort)); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("refused: %v", err)
		}
		if _, err := a.pod.DialApp(t.Context(), []netip.Addr{v6.of(w.c), v4.of(w.c)}[fam], fam.port(w.a, appPort)); err == nil {
			t.Error("a source of the other family was accepted")
		}
	})
}

// Dials of an agent must not cost a thread each.
func TestPendingDialsHoldNoThreads(t *testing.T) {
	w := newWorld(t)
	a := w.enrol(w.a, capture.Rules{})
	w.must(w.c.Down("eth0"))
	threads := func() int {
		tasks, _ := os.ReadDir("/proc/self/task")
		return len(tasks)
	}
	ctx, cancel := context.WithCancel(t.Context())
	before, done := threads(), make(chan struct{}, 100)
	for range cap(done) {
		go func() {
			_, _ = a.pod.Dial(ctx, v4.port(w.c, appPort))
			done <- struct{}{}
		}()
	}
	w.eventually("all dials wait", func() bool { return pendingDials() >= cap(done) })
	if n := threads() - before; n > runtime.GOMAXPROCS(0)+20 {
		t.Errorf("%d more threads for %d pending dials", n, cap(done))
	}
	cancel()
	for range cap(done) {
		<-done
	}
}

// pendingDials counts goroutines that wait in connect.
func pendingDials() int {
	buf := make([]byte, 1<<22)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "capture.connect(")
}

func TestNothingLeaks(t *testing.T) {
	w := newWorld(t)
	w.app(w.b, v4.port(w.b, appPort))
	fds := func() (n int) {
		list, _ := filepath.Glob("/proc/self/fd/*")
		for _, fd := range list {
			// The test's app splices; the runtime keeps those pipes until it collects garbage.
			if to, err := os.Readlink(fd); err == nil && !strings.HasPrefix(to, "pipe:") {
				n++
			}
		}
		return n
	}
	round := func() {
		n, err := capture.OpenNetns(w.b.Path())
		w.must(err)
		p, err := capture.Enrol(t.Context(), capture.PodConfig{Netns: n})
		w.must(err)
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- p.Run(ctx) }()
		c, err := p.DialApp(ctx, v4.of(w.c), v4.port(w.b, appPort))
		w.must(err)
		w.must(c.Close())
		w.must(p.Drain())
		w.must(p.Remove())
		cancel()
		w.must(<-ran)
	}
	round()
	goroutines, files := runtime.NumGoroutine(), fds()
	for range 5 {
		round()
	}
	// The app ends its side of a connection in its own time.
	w.eventually("goroutines end", func() bool { return runtime.NumGoroutine() <= goroutines })
	w.eventually("files are closed", func() bool { return fds() <= files })
	w.wantClean(w.b)
}
