package enrol

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"github.com/adit-mesh/adit/agent/kube"
	"github.com/adit-mesh/adit/capture/cni"
	"github.com/adit-mesh/adit/e2e/lab"
)

// chain is a node's CNI: plugins of the distribution, and ours after them as the
// installer puts it there.
type chain struct {
	*node
	conf, bin string
	cni       *libcni.CNIConfig
}

// distribution is where Debian's containernetworking-plugins are.
const distribution = "/usr/lib/cni"

func newChain(n *node) *chain {
	n.Helper()
	for _, name := range []string{"bridge", "host-local"} {
		if _, err := os.Stat(filepath.Join(distribution, name)); err != nil {
			if strings.EqualFold(os.Getenv("CI"), "true") {
				n.Fatalf("CNI plugins are required when CI=true: %v", err)
			}
			n.Skipf("no CNI plugins; install containernetworking-plugins: %v", err)
		}
	}
	plugin := filepath.Join(n.TempDir(), "adit-cni")
	if out, err := exec.Command("go", "build", "-o", plugin, "../../cmd/adit-cni").CombinedOutput(); err != nil {
		n.Fatalf("build the plugin: %v: %s", err, out)
	}
	c := &chain{node: n, conf: n.TempDir(), bin: n.TempDir()}
	c.cni = libcni.NewCNIConfigWithCacheDir([]string{c.bin, distribution}, n.TempDir(), nil)
	n.must(os.WriteFile(filepath.Join(c.conf, "10-bridge.conf"), []byte(`{
		"cniVersion": "1.0.0", "name": "podnet", "type": "bridge", "bridge": "cni0", "isGateway": true,
		"ipam": {"type": "host-local", "dataDir": "`+n.TempDir()+`", "ranges": [[{"subnet": "10.250.0.0/24"}], [{"subnet": "fd00:250::/64"}]]}
	}`), 0o600))
	installer := &cni.Installer{
		ConfDir: c.conf, BinDir: c.bin, Binary: plugin, Socket: n.cfg.Socket, ExcludeNamespaces: []string{"kube-system"},
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = installer.Run(ctx) })
	n.Cleanup(func() { cancel(); run.Wait() })
	n.eventually("the plugin is installed", func() bool { return installer.Status().Installed })
	return c
}

// list is the chain that the runtime takes now.
func (c *chain) list() *libcni.NetworkConfigList {
	c.Helper()
	files, err := libcni.ConfFiles(c.conf, []string{".conf", ".conflist", ".json"})
	c.must(err)
	slices.Sort(files)
	list, err := libcni.ConfListFromFile(files[0])
	c.must(err)
	return list
}

func runtimeConf(ns *lab.Namespace, name, uid string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: "c-" + uid, NetNS: ns.Path(), IfName: "eth0", Args: [][2]string{
		{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", name}, {"K8S_POD_UID", uid},
	}}
}

// A runtime sets up a pod with the node's real plugins, and the agent captures it
// before its first process could run.
func TestRealPlugins(t *testing.T) {
	n := newNode(t)
	c := newChain(n)
	n.start().sync()
	ns, err := n.lab.Namespace("pod")
	n.must(err)
	p := pod("web", "uid-1")
	n.kube.put(p)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rt := runtimeConf(ns, "web", "uid-1")

	result, err := c.cni.AddNetworkList(ctx, c.list(), rt)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(result)
	n.must(err)
	if !n.present(ns) {
		t.Error("the pod may start and there are no rules")
	}
	n.kube.api(func(pods map[string]kube.LocalPod) {
		if got := pods["uid-1"].IPs; len(got) != 2 || !strings.Contains(string(text), `"`+got[0].String()+"/24") {
			t.Errorf("the pod's addresses are %v; the runtime has %s", got, text)
		}
	})
	n.must(c.cni.CheckNetworkList(ctx, c.list(), rt))
	n.must(c.cni.DelNetworkList(ctx, c.list(), rt))
	n.wantSet("after DEL")
	n.must(c.cni.DelNetworkList(ctx, c.list(), rt))

	// Without an agent a pod does not start, and still ends.
	n.stop()
	if _, err := c.cni.AddNetworkList(ctx, c.list(), rt); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("without an agent: %v; want no pod, and why", err)
	}
	n.must(c.cni.DelNetworkList(ctx, c.list(), rt))
}
