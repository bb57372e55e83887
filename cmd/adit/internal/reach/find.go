package reach

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/adit-mesh/adit/agent/inspect"
)

// Options say which agents are meant.
type Options struct {
	// Admin are the URLs of admin ports. With them no cluster is asked.
	Admin []string
	// Kubeconfig, Context and Namespace find the agents of a cluster. "" is
	// what kubectl would use, and the namespace adit-system.
	Kubeconfig, Context, Namespace string
	// Edge finds the pods of the edge, and agents that are part of it, instead of
	// the agents of nodes.
	Edge bool
	// Node leaves the agents of other nodes alone.
	Node string
	// Local is the admin port that is tried on a machine without kubeconfig.
	// "" = that of this node.
	Local string
}

// Find finds the agents. Whoever called closes each.
//
// Without a word about where, it is the cluster of the kubeconfig; without one,
// as in an agent's own container or on a node, the agent of this node; in
// another pod, the cluster that it is in.
func Find(ctx context.Context, o Options) ([]*Agent, error) {
	namespace := cmp.Or(o.Namespace, "adit-system")
	switch {
	case len(o.Admin) > 0:
		return named(o.Admin)
	case o.Kubeconfig == "" && o.Context == "" && !hasKubeconfig():
		local := cmp.Or(o.Local, fmt.Sprintf("http://127.0.0.1:%d", AdminPort))
		if a := answering(ctx, local); a != nil {
			return []*Agent{a}, nil
		}
		c, err := loadCluster("", "", namespace, AdminPort)
		if errors.Is(err, errNoCluster) {
			return nil, fmt.Errorf("no agent to ask: there is no kubeconfig, and no agent answers at %s; "+
				"set KUBECONFIG or --kubeconfig, or name an admin port with --admin", local)
		}
		if err != nil {
			return nil, err
		}
		return c.agents(ctx, o.Node, o.Edge)
	}
	c, err := loadCluster(o.Kubeconfig, o.Context, namespace, AdminPort)
	if err != nil {
		return nil, err
	}
	return c.agents(ctx, o.Node, o.Edge)
}

// hasKubeconfig reports whether kubectl would find a file.
func hasKubeconfig() bool {
	for _, path := range clientcmd.NewDefaultClientConfigLoadingRules().Precedence {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

func named(urls []string) ([]*Agent, error) {
	var agents []*Agent
	for _, text := range urls {
		base, err := adminURL(text)
		if err != nil {
			return nil, err
		}
		agents = append(agents, newAgent("", base, base, nil))
	}
	return agents, nil
}

// adminURL reads http://127.0.0.1:15000, also without the scheme.
func adminURL(text string) (string, error) {
	full := text
	if !strings.Contains(full, "://") {
		full = "http://" + full
	}
	u, err := url.Parse(full)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
		return "", fmt.Errorf("--admin %s is not a URL like http://127.0.0.1:%d", text, AdminPort)
	case u.Port() == "":
		return "", fmt.Errorf("--admin %s has no port; that of an agent is %d", text, AdminPort)
	}
	if addr, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !addr.IsLoopback()) {
		return "", fmt.Errorf("--admin %s: agents answer to their own machine only; use --kubeconfig, or forward the port and name 127.0.0.1", text)
	}
	return "http://" + u.Host, nil
}

// probeTimeout is short: the agent of this node answers at once, or is not there.
const probeTimeout = 2 * time.Second

// answering is the agent at base, nil if none answers.
func answering(ctx context.Context, base string) *Agent {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	a := newAgent("", base, base, nil)
	var status inspect.Status
	if err := a.Get(ctx, "/status", nil, &status); err != nil {
		a.Close()
		return nil
	}
	a.Node = status.Node
	return a
}
