package capture_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

// childName is argv[0] of a test binary that is to be an agent: it enrols the namespace it is given and
// passes bytes on until it is killed.
const childName = "adit-capture-child"

func childAgent() int {
	n, err := capture.OpenNetns(os.Args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	pod, err := capture.Enrol(context.Background(), capture.PodConfig{Netns: n})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	for {
		c, err := pod.Outbound().Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer c.Close()
			up, err := pod.Dial(context.Background(), c.(*capture.Conn).OriginalDst())
			if err != nil {
				return
			}
			defer up.Close()
			go io.Copy(up, c)
			_, _ = io.Copy(c, up)
		}()
	}
}

// child starts an agent process for a pod and waits until it has enrolled it.
func (w *world) child(pod *lab.Namespace) *lab.Process {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe", pod.Path())
	cmd.Args[0] = childName
	out, err := cmd.StdoutPipe()
	w.must(err)
	p, err := w.node.Start(cmd)
	w.must(err)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		w.t.Fatalf("the agent process says %q, %v", line, err)
	}
	return p
}

// An agent is killed under load. What the pod connects to meanwhile must not reach the wire, and the next
// agent serves the pod again.
func TestKilledAgentLeaksNothing(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		w.app(w.c, fam.port(w.c, appPort))
		first := w.child(w.a)
		live := w.mustCall("through the first agent", w.a, fam.port(w.c, appPort), fam.of(w.a))

		var dead atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		calls := make(chan struct{})
		go func() {
			defer close(calls)
			for ctx.Err() == nil {
				short, done := context.WithTimeout(ctx, impatience)
				wasDead := dead.Load()
				c, err := w.callContext(short, w.a, nil, fam.port(w.c, appPort))
				if err == nil {
					if wasDead && dead.Load() {
						t.Error("the server answered a pod without an agent")
					}
					c.Close()
				}
				done()
			}
		}()
		sniff, err := w.node.Sniff("c")
		w.must(err)
		first.Kill()
		dead.Store(true)
		start := time.Now()
		if _, err := live.Read(make([]byte, 1)); err == nil {
			t.Error("a connection of the killed agent lives")
		}
		w.mustNotCall("without an agent", w.a, fam.port(w.c, appPort))
		for _, f := range sniff.Frames() {
			if s, ok := f.Segment(); ok && f.Time.After(start) && s.Flags&(lab.SYN|lab.ACK) == lab.SYN && s.Src.Addr() == fam.of(w.a) {
				t.Errorf("without an agent a connection left the pod: %s to %s", s.Src, s.Dst)
			}
		}
		dead.Store(false)
		second := w.child(w.a)
		w.mustCall("through the second agent", w.a, fam.port(w.c, appPort), fam.of(w.a))
		cancel()
		<-calls
		second.Kill()
	})
}

// Two agents may not both own a pod's table, even when the first has lost its listeners.
func TestTableOfALiveAgentIsNotTaken(t *testing.T) {
	w := newWorld(t)
	b := w.enrol(w.b, capture.Rules{})
	if !b.pod.Owned() {
		t.Skip("the kernel has no table ownership (6.9)")
	}
	for _, l := range []net.Listener{b.pod.Outbound(), b.pod.Inbound(), b.pod.HBONE()} {
		w.must(l.Close())
	}
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	defer n.Close()
	_, err = capture.Enrol(t.Context(), capture.PodConfig{Netns: n})
	if err == nil || !strings.Contains(err.Error(), "another agent serves this network namespace") {
		t.Errorf("a second agent gets %v; want whom to look for", err)
	}
	w.mustNotCall("the pod stays closed", w.c, v4.port(w.b, appPort))
}

func TestListenersAreNotOpenToTheNetwork(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		b := w.enrol(w.b, capture.Rules{})
		at := b.pod.Outbound().Addr().(*net.TCPAddr).AddrPort()
		if !at.Addr().IsLoopback() {
			t.Errorf("15001 listens on %s", at)
		}
		// In the draining stage no rule stands before the ports; the listeners refuse by themselves.
		w.must(b.pod.Drain())
		w.mustNotCall("15001 from outside", w.c, fam.port(w.b, capture.PortOutbound))
		w.mustNotCall("15006 from outside", w.c, fam.port(w.b, capture.PortInbound))
		b.wantNone("what was not redirected")
		if b.pod.Refused() == 0 {
			t.Error("the refusal was not counted")
		}
	})
}
