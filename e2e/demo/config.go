package demo

import (
	"fmt"
	"path/filepath"
	"strings"
)

// worldFile is the mesh as both agents are told it. It is written to be read
// and edited: `adit demo --keep` invites that.
func worldFile(n *network) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Read by both agents. Save a change and they follow it at once.\nworkloads:\n")
	for _, p := range n.pods {
		fmt.Fprintf(&b, `- uid: demo//v1/Pod/%[1]s/%[2]s
  name: %[2]s
  namespace: %[1]s
  serviceAccount: %[3]s
  trustDomain: %[4]s
  node: %[5]s
  netns: %[6]s
  workloadIps: [%[7]s, "%[8]s"]
  protocol: HBONE
`, namespace, p.name, p.account, trustDomain, p.node.name, p.ns.Path(), p.v4, p.v6)
		// Only the far server backs the service, so that a request for it
		// has to cross the link.
		if p == n.serverB {
			fmt.Fprintf(&b, "  services:\n    %s/%s: {%d: %d}\n", namespace, serviceHost, servicePort, appPort)
		}
	}
	fmt.Fprintf(&b, `services:
- name: server
  namespace: %[1]s
  hostname: %[2]s
  vips: ["/%[3]s"]
  ports: {%[4]d: %[5]d}
policies:
# The servers' pods are in this namespace too: whoever is not named here is refused.
- name: only-client
  namespace: %[1]s
  scope: Namespace
  action: Allow
  rules:
  - - - principals: [{Exact: %[6]s/ns/%[1]s/sa/%[7]s}]
`, namespace, serviceHost, serviceVIP, servicePort, appPort, trustDomain, n.client.account)
	return b.String()
}

// agentFile is the configuration of one node's agent.
func agentFile(dir string, n *node, sameNode string) string {
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
drainTimeout: 2s
`, n.name, trustDomain, filepath.Join(dir, "world.yaml"), filepath.Join(dir, "ca"), sameNode, accessLogPath(dir, n))
}

func agentConfigPath(dir string, n *node) string { return filepath.Join(dir, n.name+".yaml") }
func agentLogPath(dir string, n *node) string    { return filepath.Join(dir, n.name+".log") }
func accessLogPath(dir string, n *node) string   { return filepath.Join(dir, n.name+".access.log") }
