package testbed

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// OnlyClient lets the client's identity in, and so nobody else.
const OnlyClient = `# All four pods are in this namespace: whoever is not named here is refused.
- name: only-client
  namespace: ` + Namespace + `
  scope: Namespace
  action: Allow
  rules:
  - - - principals: [{Exact: ` + TrustDomain + `/ns/` + Namespace + `/sa/client}]
`

// World is the mesh file that both agents read, with policies given as a YAML
// list.
func (n *Network) World(policies string) string {
	var b strings.Builder
	b.WriteString("# Read by both agents. Save a change and they follow it at once.\nworkloads:\n")
	for _, p := range n.Pods {
		b.WriteString(p.workload())
		// Only the far server backs the service, so that a request for it
		// has to cross the link.
		if p == n.ServerB {
			fmt.Fprintf(&b, "  services:\n    %s/%s: {%d: %d}\n", Namespace, ServiceHost, ServicePort, AppPort)
		}
	}
	fmt.Fprintf(&b, `services:
- name: server
  namespace: %s
  hostname: %s
  vips: ["/%s"]
  ports: {%d: %d}
`, Namespace, ServiceHost, ServiceVIP, ServicePort, AppPort)
	if policies != "" {
		b.WriteString("policies:\n" + policies)
	}
	return b.String()
}

// Files are where a mesh keeps what its agents read and write.
type Files struct{ Dir string }

// World is the mesh file.
func (f Files) World() string { return filepath.Join(f.Dir, "world.yaml") }

// CA is the directory that the agents share, with the root's key.
func (f Files) CA() string { return filepath.Join(f.Dir, "ca") }

// Config is the configuration of a node's agent.
func (f Files) Config(n *Node) string { return filepath.Join(f.Dir, n.Name+".yaml") }

// Log is what a node's agent writes to its standard output and error.
func (f Files) Log(n *Node) string { return filepath.Join(f.Dir, n.Name+".log") }

// AccessLog is the access log of a node's agent.
func (f Files) AccessLog(n *Node) string { return filepath.Join(f.Dir, n.Name+".access.log") }

// Settings are what differs between agents, and between runs of one.
type Settings struct {
	SameNode     string        // "" = hbone
	DrainTimeout time.Duration // 0 = 2s
	Extra        string        // further YAML, whole lines
}

func (f Files) config(n *Node, s Settings) string {
	if s.SameNode == "" {
		s.SameNode = "hbone"
	}
	if s.DrainTimeout == 0 {
		s.DrainTimeout = 2 * time.Second
	}
	return fmt.Sprintf(`nodeName: %s
trustDomain: %s
world: {file: %s}
ca: {directory: %s, ttl: 1h}
sameNode: %s
log: {level: info, format: text}
accessLog: {format: json, file: %s}
admin: 127.0.0.1:15000
metrics: ":15020"
readiness: ":15021"
drainTimeout: %s
%s`, n.Name, TrustDomain, f.World(), f.CA(), s.SameNode, f.AccessLog(n), s.DrainTimeout, s.Extra)
}
