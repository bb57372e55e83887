package enrol

import (
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent/enrol/ask"
	"github.com/adit-mesh/adit/agent/kube"
)

// A pod is to start before the agent knows which pods there are. It is captured,
// nobody takes it for the only one, and it waits for the others: it could not
// reach them.
func TestSweptOnceRunningPodsAreKnown(t *testing.T) {
	n := newNode(t)
	runs, starts := n.netns("a", "10.244.1.7"), n.netns("b", "10.244.1.8")
	n.process(runs, podCgroup("uid-1", "c1")...)
	old, fresh := withAddress(pod("old", "uid-1"), "10.244.1.7"), pod("fresh", "uid-2")
	n.kube.api(func(pods map[string]kube.LocalPod) { pods[old.UID], pods[fresh.UID] = old, fresh })
	n.start()
	answer := make(chan error, 1)
	go func() { answer <- n.plugin(ask.Add, fresh, "c2", starts, "10.244.1.8") }()
	n.eventually("it is captured", func() bool { return n.present(starts) })
	n.wantSet("not synced", key(fresh.WorkloadUID, inodeOfNS(t, starts)))
	select {
	case <-n.agent.Swept():
		t.Fatal("a pod that starts was taken for all pods of the node")
	case err := <-answer:
		t.Fatalf("the pod starts before there is anything to connect to: %v", err)
	case <-time.After(impatience):
	}
	n.sync()
	select {
	case <-n.agent.Swept():
	case <-time.After(patience):
		t.Fatal("the pods that run are never known")
	}
	n.must(<-answer)
	if got := len(n.enroller.pods()); got != 2 {
		t.Errorf("the enroller knows %d pods by then, want both", got)
	}
}

func TestSweptOnAnEmptyNode(t *testing.T) {
	n := newNode(t).start().sync()
	select {
	case <-n.agent.Swept():
	case <-time.After(patience):
		t.Error("a node without pods is never done with finding them")
	}
}
