package capture_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
)

// limitedName is argv[0] of a test binary that does all that an agent does of this package, and says how far it came.
const limitedName = "adit-capture-limited"

// sleeperName is argv[0] of one that does nothing for longer than a test takes.
const sleeperName = "adit-capture-sleeper"

// limitedAgent has as arguments the pod's namespace, an app in it, and an address that is not the pod's.
func limitedAgent() int {
	var n *capture.Netns
	var pod *capture.Pod
	app := netip.MustParseAddrPort(os.Args[2])
	foreign := netip.MustParseAddr(os.Args[3])
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"preflight", capture.Preflight},
		{"open", func() (err error) { n, err = capture.OpenNetns(os.Args[1]); return err }},
		{"addresses", func() error { _, err := n.Addresses(); return err }},
		{"enrol", func() (err error) {
			pod, err = capture.Enrol(context.Background(), capture.PodConfig{Netns: n})
			return err
		}},
		{"dial app", func() error { _, err := pod.DialApp(context.Background(), foreign, app); return err }},
		{"change rules", func() error { return pod.SetRules(capture.Rules{DNS: true}) }},
		{"drain", func() error { return pod.Drain() }},
		{"remove", func() error { return pod.Remove() }},
		{"host", func() error {
			h, err := capture.OpenHost(capture.HostConfig{})
			if err != nil {
				return err
			}
			return h.Remove()
		}},
	} {
		if err := step.do(); err != nil {
			fmt.Printf("%s: %v\n", step.name, err)
			if step.name != "preflight" { // an agent may go without
				return 1
			}
		}
	}
	fmt.Println("all done")
	return 0
}

// limited runs a limitedAgent in the node's namespace as a root that has some capabilities only, as a
// container's is.
func (w *world) limited(caps []int, args ...string) string {
	w.t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = limitedName
	cmd.Stdout, cmd.Stderr = &out, &out
	started := make(chan error)
	onThreadThatEnds(func() {
		started <- func() error {
			ns, err := os.Open(w.node.Path())
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			keep := make(map[int]bool)
			for _, c := range caps {
				keep[c] = true
			}
			for c := 0; c <= unix.CAP_LAST_CAP; c++ {
				if !keep[c] {
					if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
						return err
					}
				}
			}
			return cmd.Start()
		}()
	})
	w.must(<-started)
	_ = cmd.Wait()
	return strings.TrimSpace(out.String())
}

// onThreadThatEnds runs f on a thread that runs nothing else afterwards: it stays
// locked, and ends with its goroutine. The main thread cannot end, and would stay
// where f has left it; while it is held here, another one is sure to be taken.
func onThreadThatEnds(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			defer close(done)
			f()
		}()
		<-done
	}()
}

// What an agent's container must be allowed, and what the agent says where it is not.
func TestCapabilities(t *testing.T) {
	w := newWorld(t)
	needUsers(t)
	w.app(w.b, v4.port(w.b, appPort))
	app := exec.Command("/proc/self/exe")
	app.Args[0] = sleeperName
	app.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	process, err := w.b.Start(app)
	w.must(err)
	defer process.Kill()
	pid := strconv.Itoa(app.Process.Pid)

	enough := []int{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE}
	for why, tc := range map[string]struct {
		without int
		ns      string
		want    []string
	}{
		"enough":                               {-1, "/proc/" + pid + "/ns/net", []string{"all done"}},
		"no NET_ADMIN":                         {unix.CAP_NET_ADMIN, w.b.Path(), []string{"preflight: ", "enrol ", "the agent needs CAP_NET_ADMIN"}},
		"no SYS_ADMIN":                         {unix.CAP_SYS_ADMIN, w.b.Path(), []string{"preflight: ", "addresses: ", "the agent needs CAP_SYS_ADMIN"}},
		"no SYS_PTRACE":                        {unix.CAP_SYS_PTRACE, "/proc/" + pid + "/ns/net", []string{"open: ", "CAP_SYS_PTRACE"}},
		"no SYS_PTRACE, none needed by a path": {unix.CAP_SYS_PTRACE, w.b.Path(), []string{"all done"}},
	} {
		t.Run(why, func(t *testing.T) {
			caps := slices.DeleteFunc(slices.Clone(enough), func(c int) bool { return c == tc.without })
			got := w.limited(caps, tc.ns, v4.port(w.b, appPort).String(), v4.of(w.c).String())
			for _, want := range tc.want {
				if !strings.Contains(got, want) {
					t.Errorf("the agent says %q; want %q in it", got, want)
				}
			}
		})
	}
}
