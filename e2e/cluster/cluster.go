package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Config says which cluster. The zero value is the one that `make cluster` brings up.
type Config struct {
	// Name keeps clusters on one machine apart: it starts the names of their
	// namespaces and cgroups. Letters, digits and dashes; "" means adit-k8s.
	Name string
	// Dir holds everything on disk and goes with the cluster. "" means /var/tmp/NAME.
	Dir string
	// Nodes is their number, 1 to 9; 0 means 2.
	Nodes int
	// Root is the checkout to build from; "" means the one around the working directory.
	Root string
	// Logger gets the steps of Up; nil discards them.
	Logger *slog.Logger
}

func (c Config) prefix() string { return c.Name + "-" }

var validName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// names are those of the network namespaces that a cluster with this
// configuration may have, and of its cgroups.
func (c Config) names() []string {
	names := []string{c.prefix() + controlPlane}
	for i := range maxNodes {
		names = append(names, c.prefix()+nodeName(i+1))
	}
	return names
}

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = "adit-k8s"
	}
	if c.Dir == "" {
		c.Dir = filepath.Join("/var/tmp", c.Name)
	}
	if c.Nodes == 0 {
		c.Nodes = 2
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Nodes < 1 || c.Nodes > maxNodes {
		return c, fmt.Errorf("cluster: %d nodes: want 1 to %d", c.Nodes, maxNodes)
	}
	if !validName.MatchString(c.Name) {
		return c, fmt.Errorf("cluster: name %q: want letters, digits and dashes", c.Name)
	}
	if os.Geteuid() != 0 {
		return c, errors.New("cluster: needs root")
	}
	if c.Root == "" {
		root, err := checkout()
		if err != nil {
			return c, err
		}
		c.Root = root
	}
	return c, nil
}

// checkout is the nearest directory above that has a go.mod.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("cluster: no go.mod above the working directory; run it in the checkout")
		}
		dir = filepath.Dir(dir)
	}
}

// Cluster is a running cluster. Its methods may be used from several goroutines,
// each node's and the API server's Stop and Start from one at a time.
type Cluster struct {
	cfg    Config
	dir    string
	lab    *lab.Lab
	cp     *machine
	nodes  []*Node
	pki    *pki
	rest   *rest.Config
	client kubernetes.Interface
}

// record is what Attach has to know. It is written last, so a cluster without one is not whole.
type record struct {
	Nodes int
}

func (c *Cluster) recordFile() string { return filepath.Join(c.dir, "cluster.json") }

// Up brings a cluster up and returns when its nodes are ready. What was left of
// an earlier one with the name is removed, a healthy one too; a failure or the
// end of ctx removes what there is so far.
func Up(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return replace(ctx, cfg)
}

// Ensure joins the cluster of that name if it is up with as many nodes as are
// asked for, and is Up otherwise. Of several at a time one brings it up.
func Ensure(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err := Attach(cfg); err == nil {
		if len(c.nodes) == cfg.Nodes {
			return c, nil
		}
		if err := c.Close(); err != nil {
			return nil, err
		}
	}
	return replace(ctx, cfg)
}

// replace is Up for who holds the lock.
func replace(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := down(cfg); err != nil {
		return nil, err
	}
	c, err := newCluster(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.up(ctx); err != nil {
		return nil, errors.Join(err, c.Close(), down(cfg))
	}
	return c, nil
}

// Attach joins a cluster that is up already.
func Attach(cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	var rec record
	if err := readJSON(filepath.Join(cfg.Dir, "cluster.json"), &rec); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cluster: %s is not up: %w", cfg.Name, err)
	} else if err != nil {
		return nil, err
	}
	cfg.Nodes = rec.Nodes
	c, err := newCluster(cfg)
	if err != nil {
		return nil, err
	}
	if err := c.attach(); err != nil {
		return nil, errors.Join(fmt.Errorf("cluster: attach to %s: %w", cfg.Name, err), c.lab.Close())
	}
	return c, nil
}

// Down removes a cluster of which nothing may be known any more. That there is none is no error.
func Down(cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	unlock, err := lock(context.Background(), cfg)
	if err != nil {
		return err
	}
	defer unlock()
	return down(cfg)
}

// Down removes every trace of the cluster.
func (c *Cluster) Down() error {
	return errors.Join(c.Close(), Down(c.cfg))
}

// Close lets go of the cluster and leaves it running.
func (c *Cluster) Close() error {
	c.lab.Keep()
	return c.lab.Close()
}

func newCluster(cfg Config) (*Cluster, error) {
	l, err := lab.New(cfg.prefix())
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, dir: cfg.Dir, lab: l}
	c.cp = &machine{name: controlPlane, dir: filepath.Join(c.dir, controlPlane)}
	for i := 1; i <= cfg.Nodes; i++ {
		m := &machine{name: nodeName(i), dir: filepath.Join(c.dir, nodeName(i))}
		c.nodes = append(c.nodes, &Node{machine: m, index: i, cluster: c})
	}
	return c, nil
}

func (c *Cluster) machines() []*machine {
	all := []*machine{c.cp}
	for _, n := range c.nodes {
		all = append(all, n.machine)
	}
	return all
}

func (c *Cluster) attach() error {
	for _, m := range c.machines() {
		ns, err := c.lab.Open(m.name)
		if err != nil {
			return err
		}
		m.ns = ns
		if err := m.attach(); err != nil {
			return err
		}
	}
	c.pki = &pki{dir: filepath.Join(c.dir, "pki")} // the files; nothing is issued any more
	return c.connect()
}

func (c *Cluster) up(ctx context.Context) error {
	began := time.Now()
	step := func(what string) {
		c.cfg.Logger.Info(what, "after", time.Since(began).Round(100*time.Millisecond))
	}
	for _, m := range c.machines() {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
	}
	if err := c.buildTools(ctx); err != nil {
		return err
	}
	step("built test images")
	if err := c.network(); err != nil {
		return err
	}
	if err := c.controlPlaneUp(); err != nil {
		return err
	}
	step("control plane started")
	for _, n := range c.nodes {
		if err := n.prepare(); err != nil {
			return err
		}
	}
	if err := c.eachNode(func(n *Node) error { return n.firstBoot(ctx) }); err != nil {
		return err
	}
	step("nodes started")
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	step("nodes ready")
	if err := c.addons(ctx); err != nil {
		return err
	}
	step("names and load balancer ready")
	return writeJSON(c.recordFile(), record{Nodes: len(c.nodes)})
}

// network makes the namespaces of all machines and what joins them.
func (c *Cluster) network() error {
	var nodes []*lab.Namespace
	for _, m := range c.machines() {
		ns, err := c.lab.Namespace(m.name)
		if err != nil {
			return err
		}
		m.ns = ns
		if m != c.cp {
			nodes = append(nodes, ns)
		}
	}
	c.lab.Keep()
	return buildNetwork(c.lab, c.cp.ns, nodes)
}

func (c *Cluster) controlPlaneUp() error {
	if err := c.cp.boot(c.bin("machine"), machineSpec{Hostname: controlPlane}); err != nil {
		return err
	}
	port, err := c.cp.forwardTo(c.bin("machine"), fmt.Sprintf("%s:%d", controlAddrs[0], apiPort))
	if err != nil {
		return err
	}
	if c.pki, err = c.credentials(); err != nil {
		return err
	}
	if err := c.pki.client("host", "admin", "system:masters"); err != nil {
		return err
	}
	if err := c.pki.kubeconfig("host", fmt.Sprintf("https://127.0.0.1:%d", port)); err != nil {
		return err
	}
	for _, start := range []func() error{c.startEtcd, c.StartAPIServer, c.startControllers} {
		if err := start(); err != nil {
			return err
		}
	}
	return c.connect()
}

func (n *Node) firstBoot(ctx context.Context) error {
	if err := n.up(ctx); err != nil {
		return err
	}
	for _, image := range []string{"pause", "infra", "testapp"} {
		if err := n.loadImage(ctx, filepath.Join(n.cluster.images(), image+".tar")); err != nil {
			return err
		}
	}
	// Neither minds that the API server may not answer yet.
	if err := n.startKubeProxy(); err != nil {
		return err
	}
	return n.StartKubelet()
}

func (c *Cluster) eachNode(do func(*Node) error) error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = do(n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Nodes are all of them, in the order of their names.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node finds a node by its name, or returns nil.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.nodes {
		if n.name == name {
			return n
		}
	}
	return nil
}

// Outside is the network namespace of the control plane. A client there is a
// host on the nodes' network that is no part of the cluster; addresses of load
// balancers are routed from it.
func (c *Cluster) Outside() *lab.Namespace { return c.cp.ns }

// Dir is where everything of the cluster is on disk, logs included.
func (c *Cluster) Dir() string { return c.dir }
