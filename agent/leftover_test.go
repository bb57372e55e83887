package agent

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/adit-mesh/adit/capture"
)

// A pod was released from the mesh while no agent was there to do it. Its
// annotation still says that it takes tunnels; unless somebody says otherwise
// peers open them for ever.
func TestLeftoverIsAnnounced(t *testing.T) {
	l := newPodLab(t)
	p := sandbox(t, "left", l.pod("left", "10.9.0.2"))
	p.Release = true
	netns, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	earlier, err := capture.Enrol(t.Context(), capture.PodConfig{Netns: netns})
	if err != nil {
		t.Fatal(err)
	}
	if err := earlier.Detach(); err != nil {
		t.Fatal(err)
	}

	source, released := make(pushedPods), make(chan LocalPod, 1)
	set := newPodSet(podSetConfig{
		Source: source, Ready: newReadiness(), Logger: slog.New(slog.DiscardHandler),
		Released: func(p LocalPod) { released <- p },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- set.Run(ctx) }()
	source <- []LocalPod{p}
	select {
	case got := <-released:
		if got.UID != p.UID {
			t.Errorf("peers are told of %s, want %s", got.UID, p.UID)
		}
	case <-time.After(10 * time.Second):
		t.Error("a pod was freed, and its peers go on taking it for one of the mesh")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
