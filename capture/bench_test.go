package capture_test

import (
	"testing"

	"github.com/adit-mesh/adit/capture"
)

// One enrolment, of which an agent with many pods makes many when it starts.
func BenchmarkEnrol(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		n, err := capture.OpenNetns(w.b.Path())
		w.must(err)
		p, err := capture.Enrol(b.Context(), capture.PodConfig{Netns: n})
		w.must(err)
		w.must(p.Detach())
	}
}

// What the reconciler costs per pod and interval when nothing has changed.
func BenchmarkVerify(b *testing.B) {
	w := newWorld(b)
	a := w.enrol(w.b, capture.Rules{})
	for b.Loop() {
		if r := a.pod.Verify(); len(r) != 0 {
			b.Fatal(r)
		}
	}
}

// One pod that comes and goes on a node of 250, each with three probe ports in two families.
func BenchmarkSetPods(b *testing.B) {
	w := newWorld(b)
	n, err := capture.OpenNetns(w.node.Path())
	w.must(err)
	h, err := capture.OpenHost(capture.HostConfig{Netns: n})
	w.must(err)
	defer h.Remove()
	fewer, more := manyPods(250), manyPods(251)
	w.must(h.SetPods(fewer))
	for b.Loop() {
		w.must(h.SetPods(more))
		w.must(h.SetPods(fewer))
	}
}

// A connection from the pod's namespace, with its handshake.
func BenchmarkDial(b *testing.B) {
	w := newWorld(b)
	a := w.enrol(w.a, capture.Rules{})
	l, err := w.c.Listen("tcp", v4.port(w.c, appPort).String())
	w.must(err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for b.Loop() {
		c, err := a.pod.Dial(b.Context(), v4.port(w.c, appPort))
		w.must(err)
		_ = c.SetLinger(0)
		c.Close()
	}
}
