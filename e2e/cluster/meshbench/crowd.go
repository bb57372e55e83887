package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster"
)

const (
	crowdNS  = ours + "made"
	crowdDir = "/run/meshbench" // on the node
)

// crowd adds pods that consist of a network namespace and an API object. All
// that an agent sees of them is what it sees of others: the node's CNI plugins run
// as a runtime runs them, the status follows later. The kubelet is stopped
// meanwhile, or it would start them, and so are the controllers, which would
// write to every pod of a node without one.
func (b *bench) crowd(ctx context.Context, a *agent, had int) (err error) {
	node := a.node
	again, err := b.suspend()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, again()) }()
	if err := node.StopKubelet(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.StartKubelet(), b.cluster.WaitReady(ctx)) }()
	if err := b.namespace(ctx, crowdNS, true, accounts); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(node.Path(crowdDir)), os.MkdirAll(node.Path(crowdDir), 0o700)); err != nil {
		return err
	}
	var asked, bare []float64
	for i := range b.cfg.made {
		s := sandbox{bench: b, node: node, name: fmt.Sprintf("made-%d", i)}
		defer func() { err = errors.Join(err, s.remove(context.WithoutCancel(ctx))) }()
		d, err := s.start(ctx, i)
		if err != nil {
			return err
		}
		asked = append(asked, milliseconds(d))
		// The same program where it has nothing to ask.
		if d, err = s.plugin(ctx, "ADD", "kube-system"); err != nil {
			return err
		}
		bare = append(bare, milliseconds(d))
		if i%50 == 49 {
			b.progress("%d of %d network namespaces", i+1, b.cfg.made)
		}
	}
	if err := b.serving(ctx, a, had+b.cfg.made); err != nil {
		return err
	}
	b.report.values("adit-cni ADD of a namespace by hand, whole process", "ms", asked).against("excluded pod", bare)
	b.report.values("adit-cni ADD of an excluded pod, whole process", "ms", bare)
	_, err = b.idle(ctx, node, fmt.Sprintf("%d pods, %d of them by hand", b.cfg.pods+b.cfg.made, b.cfg.made))
	return err
}

// A sandbox is a pod without processes.
type sandbox struct {
	*bench
	node *cluster.Node
	name string
	uid  string
}

// start does what kubelet and runtime do, in their order, and returns how long
// adit-cni took.
func (s *sandbox) start(ctx context.Context, i int) (time.Duration, error) {
	pod, err := s.client.CoreV1().Pods(crowdNS).Create(ctx, aPod(s.name, s.node.Name(), account(i%accounts)), metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	s.uid = string(pod.UID)
	if _, err := s.node.Exec(ctx, "ip", "netns", "add", s.name); err != nil {
		return 0, err
	}
	if _, err := s.node.Exec(ctx, "ip", "-n", s.name, "link", "set", "lo", "up"); err != nil {
		return 0, err
	}
	type list []map[string]string
	out, err := s.run(ctx, "bridge", "ADD", crowdNS, map[string]any{
		"cniVersion": "1.0.0", "name": "meshbench", "type": "bridge", "bridge": "meshbench0", "isGateway": true,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": path.Join(crowdDir, "ipam"), "ranges": []list{{{"subnet": "10.250.1.0/24"}}, {{"subnet": "fd00:10:250:1::/64"}}},
			"routes": list{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
		},
	})
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(s.node.Path(path.Join(crowdDir, s.name)), []byte(out), 0o600); err != nil {
		return 0, err
	}
	took, err := s.plugin(ctx, "ADD", crowdNS)
	if err != nil {
		return 0, err
	}
	var result struct{ IPs []struct{ Address string } }
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		return 0, err
	}
	var addrs []string
	for _, ip := range result.IPs {
		addrs = append(addrs, path.Dir(ip.Address)) // without /LENGTH
	}
	return took, s.patchStatus(ctx, crowdNS, s.name, addrs...)
}

// plugin runs adit-cni as the runtime does, after the bridge plugin.
func (s *sandbox) plugin(ctx context.Context, command, ns string) (time.Duration, error) {
	previous, err := os.ReadFile(s.node.Path(path.Join(crowdDir, s.name)))
	if err != nil {
		return 0, err
	}
	entry, err := s.entry()
	if err != nil {
		return 0, err
	}
	entry["cniVersion"], entry["name"], entry["prevResult"] = "1.0.0", "meshbench", json.RawMessage(previous)
	began := time.Now()
	_, err = s.run(ctx, "adit-cni", command, ns, entry)
	return time.Since(began), err
}

// entry is that of adit-cni in the node's chain.
func (s *sandbox) entry() (map[string]any, error) {
	b, err := os.ReadFile(s.node.Path(path.Join(cluster.CNIConfDir, "00-adit.conflist")))
	if err != nil {
		return nil, err
	}
	var chain struct{ Plugins []map[string]any }
	if err := json.Unmarshal(b, &chain); err != nil {
		return nil, err
	}
	if n := len(chain.Plugins); n > 0 && chain.Plugins[n-1]["type"] == "adit-cni" {
		return chain.Plugins[n-1], nil
	}
	return nil, errors.New("adit-cni is not the last of the node's CNI plugins")
}

// run runs a CNI plugin on the node.
func (s *sandbox) run(ctx context.Context, plugin, command, ns string, conf map[string]any) (string, error) {
	b, err := json.Marshal(conf)
	if err != nil {
		return "", err
	}
	in := path.Join(crowdDir, s.name+".in")
	if err := os.WriteFile(s.node.Path(in), b, 0o600); err != nil {
		return "", err
	}
	out, err := s.node.Exec(ctx, "sh", "-c", `exec env "$@" <`+in, "sh",
		"CNI_COMMAND="+command, "CNI_CONTAINERID="+s.name, "CNI_NETNS=/run/netns/"+s.name, "CNI_IFNAME=eth0", "CNI_PATH="+cluster.CNIBinDir,
		fmt.Sprintf("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s", ns, s.name, s.uid),
		path.Join(cluster.CNIBinDir, plugin))
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out) // a plugin says why on its standard output
	}
	return out, nil
}

// remove is the way back. It can end what was never whole.
func (s *sandbox) remove(ctx context.Context) error {
	if s.uid == "" {
		return nil
	}
	var errs []error
	if _, err := os.Stat(s.node.Path(path.Join(crowdDir, s.name))); err == nil {
		_, err := s.plugin(ctx, "DEL", crowdNS)
		errs = append(errs, err)
	}
	_, err := s.node.Exec(ctx, "ip", "netns", "del", s.name)
	errs = append(errs, err, s.client.CoreV1().Pods(crowdNS).Delete(ctx, s.name, deleteNow))
	return errors.Join(errs...)
}

// deleteNow is for what no kubelet has to agree to.
var deleteNow = metav1.DeleteOptions{GracePeriodSeconds: ptr[int64](0)}
