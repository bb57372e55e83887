package weathertest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/adit-mesh/adit/e2e/cluster"
	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

func TestKubeletAndContainerdRestarted(t *testing.T) {
	s := begin(t)
	ctx := t.Context()
	c := meshlab.Cluster()
	before := readySince(t, s.ns)
	for _, on := range []string{front, back} {
		n := node(on)
		must(t, n.StopKubelet())
		must(t, n.StopContainerd())
		pass(t, 2*time.Second)
		must(t, n.StartContainerd(ctx))
		must(t, n.StartKubelet())
		must(t, c.WaitReady(ctx))
		p := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "after-" + on, Node: on, ServiceAccount: "after"})
		captured(t, p)
		p.Reach(t, s.target)
	}
	captured(t, s.server, s.calls.Pod, s.lines.Pod)
	// A kubelet that starts may report a pod as not ready until it has probed it,
	// and the service then has no endpoint, with adit and without.
	if readySince(t, s.ns) == before {
		s.unaffected(t, "kubelet and containerd restarted")
		return
	}
	calls, lines := s.end(t)
	t.Logf("the kubelet reported the server as not ready for a moment; %d new connections failed", calls.Failed)
	if lines.Failed > 0 {
		t.Errorf("kubelet and containerd restarted: %d connections broke: %v; last: %s", lines.Failed, lines.Errors, lines.Last)
	}
}

// readySince is when the server became ready.
func readySince(t *testing.T, ns string) time.Time {
	t.Helper()
	for _, c := range meshlab.Get(t, ns, "server").Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// Another component writes its CNI configuration again and again, as some do at
// every start, while pods start.
func TestCNIConfigurationOverwritten(t *testing.T) {
	s := begin(t)
	const primary = "10-podnet.conflist"
	dir := node(front).Path(cluster.CNIConfDir)
	content, err := os.ReadFile(filepath.Join(dir, primary))
	must(t, err)
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			name := filepath.Join(dir, primary)
			var err error
			if i%2 == 0 { // in place, as a shell script does
				err = os.WriteFile(name, content, 0o644)
			} else if err = os.WriteFile(name+".tmp", content, 0o644); err == nil {
				err = os.Rename(name+".tmp", name)
			}
			if err != nil {
				t.Errorf("overwrite %s: %v", name, err)
				return
			}
		}
	})
	end := sync.OnceFunc(func() {
		close(stop)
		writer.Wait()
	})
	t.Cleanup(end)
	const pods = 8
	for i := range pods {
		meshlab.Create(t, s.ns, caller(fmt.Sprintf("early-%d", i), s.target))
	}
	for i := range pods {
		captured(t, meshlab.Ready(t, s.ns, fmt.Sprintf("early-%d", i)))
	}
	end()
	s.unaffected(t, "CNI configuration overwritten")
}

// caller talks from its first moment on.
func caller(name, target string) meshlab.PodSpec {
	return meshlab.PodSpec{Name: name, Node: front, ServiceAccount: "client", Args: []string{"client", target, "-every", "50ms"}}
}

// What adit has put on the node is taken away: it comes back, and no pod starts
// uncaptured once it has.
func TestCNIFilesRemoved(t *testing.T) {
	s := begin(t)
	for i, name := range []string{
		filepath.Join(cluster.CNIConfDir, "00-adit.conflist"),
		filepath.Join(cluster.CNIBinDir, "adit-cni"),
	} {
		path := node(front).Path(name)
		before, err := os.ReadFile(path)
		must(t, err)
		began := time.Now()
		must(t, os.Remove(path))
		meshlab.Eventually(t, name+" is there again", func() error {
			after, err := os.ReadFile(path)
			if err == nil && string(after) != string(before) {
				err = fs.ErrInvalid
			}
			return err
		})
		t.Logf("%s is there again within %s", name, time.Since(began).Round(time.Millisecond))
		p := fmt.Sprintf("after-%d", i)
		meshlab.Create(t, s.ns, caller(p, s.target))
		captured(t, meshlab.Ready(t, s.ns, p))
	}
	s.unaffected(t, "CNI files removed")
}
