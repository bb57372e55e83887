package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Paths of the product on every node, where a real node has them. What this
// process finds them by is Node.Path.
const (
	CNIConfDir = "/etc/cni/net.d"
	CNIBinDir  = "/opt/cni/bin"
	RunDir     = "/run/adit"
)

// Node is one worker: containerd, kubelet and kube-proxy on a machine of its own.
type Node struct {
	*machine
	index   int // from 1
	cluster *Cluster
}

// Name is n1, n2 and so on, which is the Node object's name too.
func (n *Node) Name() string { return n.name }

// Netns is the node's network namespace, for dialing, listening and capturing in it.
func (n *Node) Netns() *lab.Namespace { return n.ns }

// Path is where this process finds a file of the node. It changes with a reboot.
func (n *Node) Path(name string) string { return n.path(name) }

// Exec runs a program of the host on the node, in all its namespaces, and returns its standard output.
func (n *Node) Exec(ctx context.Context, argv ...string) (string, error) {
	return n.exec(ctx, nil, argv...)
}

// Log is the file that a daemon of the node logs to: containerd, kubelet or kube-proxy.
func (n *Node) Log(daemon string) string { return filepath.Join(n.dir, daemon+".log") }

// sysctls are those that a kubelet insists on and that belong to the whole
// host. It finds and sets them in files of its own.
var sysctls = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// spec is the node's file system: everything that a kubelet, a containerd, a CNI
// plugin or a pod with host paths writes to is the node's own, at its usual path.
func (n *Node) spec() machineSpec {
	in := func(name string) string { return filepath.Join(n.dir, name) }
	s := machineSpec{
		Hostname: n.name,
		Overlays: []overlay{{Target: "/etc", Upper: in("etc"), Work: in("etc.work")}},
		Binds: []bind{
			{in("opt"), "/opt"},
			{in("lib"), "/var/lib"},
			{in("log"), "/var/log"},
		},
		Run: []string{"/run/lock", "/run/netns", "/run/containerd"},
	}
	for key := range sysctls {
		s.Binds = append(s.Binds, bind{in("sysctl/" + filepath.Base(key)), "/proc/sys/" + key})
	}
	return s
}

// prepare fills the node's file system before its first boot.
func (n *Node) prepare() error {
	in := func(name string) string { return filepath.Join(n.dir, name) }
	for _, dir := range []string{
		"etc/cni/net.d", "etc/containerd", "etc/kubernetes", "etc.work", "opt/cni/bin",
		"lib/kubelet", "lib/containerd", "lib/cni", "log/pods", "log/containers", "sysctl",
	} {
		if err := os.MkdirAll(in(dir), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"etc/hostname":                     n.name + "\n",
		"etc/hosts":                        "127.0.0.1 localhost\n::1 localhost\n",
		"etc/resolv.conf":                  "# nothing beyond the cluster has a name\n",
		"etc/machine-id":                   fmt.Sprintf("%032x\n", n.index),
		"etc/containerd/config.toml":       containerdConfig,
		"etc/cni/net.d/10-podnet.conflist": n.cniConfig(),
		"etc/kubernetes/kubelet.yaml":      n.kubeletConfig(),
		"etc/kubernetes/kube-proxy.yaml":   n.kubeProxyConfig(),
		"etc/kubernetes/README":            "Made by e2e/cluster; changes are lost with the cluster.\n",
	}
	for key, value := range sysctls {
		files["sysctl/"+filepath.Base(key)] = value + "\n"
	}
	for name, content := range files {
		if err := os.WriteFile(in(name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	// Copies, because the product installs its own plugin beside them.
	plugins, err := os.ReadDir(debianPlugins)
	if err != nil {
		return fmt.Errorf("%w; run `make setup-cluster`", err)
	}
	for _, p := range plugins {
		if err := copyFile(filepath.Join(debianPlugins, p.Name()), in("opt/cni/bin/"+p.Name()), 0o755); err != nil {
			return err
		}
	}
	return n.credentials()
}

func (n *Node) credentials() error {
	p := n.cluster.pki
	if err := p.client("kubelet-"+n.name, "system:node:"+n.name, "system:nodes"); err != nil {
		return err
	}
	if err := p.kubeconfig("kubelet-"+n.name, apiURL); err != nil {
		return err
	}
	return p.server("kubelet-server-"+n.name, []string{n.name}, nodeAddrs(n.index)...)
}

// up boots the machine and starts its daemons. It waits for containerd only.
func (n *Node) up(ctx context.Context) error {
	if err := makeCgroup(n.cgroup()); err != nil {
		return err
	}
	if err := n.boot(n.cluster.bin("machine"), n.spec()); err != nil {
		return err
	}
	return n.StartContainerd(ctx)
}

// cgroup is the group that the pods of the node are in, in every hierarchy.
func (n *Node) cgroup() string { return n.cluster.cfg.prefix() + n.name }

// StartContainerd starts it and waits until it answers.
func (n *Node) StartContainerd(ctx context.Context) error {
	if err := n.start("containerd", "/usr/bin/containerd"); err != nil {
		return err
	}
	return poll(ctx, time.Minute, func() error {
		if !n.running("containerd") {
			return permanent(fmt.Errorf("containerd on %s has ended: %s", n.name, n.logTail("containerd")))
		}
		_, err := n.ctr(ctx, "version")
		return err
	})
}

// StopContainerd ends containerd. Pods go on, as their shims are processes of their own.
func (n *Node) StopContainerd() error {
	return n.stop("containerd", unix.SIGTERM, 10*time.Second)
}

// StartKubelet starts the kubelet. It does not wait; see Cluster.WaitReady.
func (n *Node) StartKubelet() error {
	return n.start("kubelet", n.cluster.bin("kubelet"),
		"--config=/etc/kubernetes/kubelet.yaml",
		"--kubeconfig="+n.cluster.pki.file("kubelet-"+n.name+".conf"),
		"--hostname-override="+n.name, "--node-ip="+join(nodeAddrs(n.index)),
		fmt.Sprintf("--node-labels=topology.kubernetes.io/region=lab,topology.kubernetes.io/zone=zone-%d", n.index))
}

// StopKubelet ends the kubelet. Pods go on, unwatched.
func (n *Node) StopKubelet() error { return n.stop("kubelet", unix.SIGTERM, 10*time.Second) }

func (n *Node) startKubeProxy() error {
	return n.start("kube-proxy", n.cluster.bin("kube-proxy"), "--config=/etc/kubernetes/kube-proxy.yaml")
}

func (n *Node) ctr(ctx context.Context, args ...string) (string, error) {
	return n.Exec(ctx, append([]string{"/usr/bin/ctr", "-n", "k8s.io"}, args...)...)
}

// Halt ends every process of the node at once, as a power cut does. Reboot brings it back.
func (n *Node) Halt() error { return n.halt() }

// Reboot halts the node and starts it again: the disk is what it was, /run is
// empty, and the network is as before the first pod.
func (n *Node) Reboot(ctx context.Context) error {
	if err := n.halt(); err != nil {
		return err
	}
	if err := n.resetNetwork(); err != nil {
		return err
	}
	// A kubelet that finds groups of containers that are gone asks after each for seconds before it starts a pod.
	if err := removeCgroups(n.cgroup()); err != nil {
		return err
	}
	if err := n.up(ctx); err != nil {
		return err
	}
	if err := n.startKubeProxy(); err != nil {
		return err
	}
	return n.StartKubelet()
}
