package meshtest

import (
	"fmt"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// Pods are enrolled and released under streams in both directions, of which
// none breaks: neither those of before nor those of between.
func TestEnrolAndReleaseUnderTraffic(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, false)
	sides := []*meshlab.Pod{nil, nil}
	for i, at := range []string{near, far} {
		meshlab.Create(t, ns, meshlab.PodSpec{Name: fmt.Sprintf("server%d", i), Node: at, ServiceAccount: "server"})
	}
	for i := range sides {
		sides[i] = meshlab.Ready(t, ns, fmt.Sprintf("server%d", i))
	}
	start := func(name string) (loads []*meshlab.LoadRun) {
		for i, from := range []string{near, far} {
			target := sides[1-i].At(9000)
			if i == 1 {
				target = sides[1-i].At6(9000)
			}
			loads = append(loads, meshlab.Load(t, ns,
				meshlab.PodSpec{Name: fmt.Sprintf("%s%d", name, i), Node: from, ServiceAccount: "client", Args: []string{"-conns", "4"}},
				"stream", target))
		}
		return loads
	}
	before := start("before")
	pods := append([]*meshlab.Pod{before[0].Pod, before[1].Pod}, sides...)
	progress := func(loads []*meshlab.LoadRun) {
		t.Helper()
		for _, l := range loads {
			l.Progress(t, 20)
		}
	}

	meshlab.SetMode(t, ns, "ambient")
	wantCaptured(t, pods...)
	progress(before)
	between := start("between")
	for i, l := range between {
		wantMutual(t, l.Pod, sides[1-i], "client", "server")
	}

	meshlab.SetMode(t, ns, "")
	meshlab.Eventually(t, "the agents let go of the pods", func() error {
		all, err := podInfos()
		if err != nil {
			return err
		}
		for _, p := range pods {
			if all[p.Ref()].Enrolled {
				return fmt.Errorf("%+v", all[p.Ref()])
			}
		}
		return nil
	})
	progress(before)
	progress(between)
	for _, l := range between {
		pods = append(pods, l.Pod)
		if total := l.Stop(t); total.Failed > 0 {
			t.Errorf("streams that began while enrolled (%s): %s", l.Pod.Name, total)
		}
	}
	wantReleased(t, sides...)
	wantReleased(t, before[0].Pod, before[1].Pod)
	progress(before)
	for _, l := range before {
		if total := l.Stop(t); total.Failed > 0 {
			t.Errorf("streams that began before (%s): %s", l.Pod.Name, total)
		}
	}
}
