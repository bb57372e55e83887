package weathertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// What is wrong with a policy never lets in whom it would keep out.
func TestMalformedPolicy(t *testing.T) {
	s := begin(t)
	meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "guarded", Node: back, ServiceAccount: "guarded"})
	guarded := address(meshlab.Service(t, s.ns, "guarded", nil, nil), "9000")
	friend := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "friend", Node: front, ServiceAccount: "friend"})
	stranger := meshlab.Start(t, s.ns, meshlab.PodSpec{Name: "stranger", Node: front, ServiceAccount: "stranger"})
	apply := func(name, spec string) {
		t.Helper()
		meshlab.Apply(t, s.ns, fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: %s}
spec: {selector: {matchLabels: {app: guarded}}, %s}
`, name, spec))
	}
	apply("friends", `rules: [{from: [{source: {principals: ["cluster.local/ns/`+s.ns+`/sa/friend"]}}]}]`)
	friend.Reach(t, guarded)
	stranger.Refused(t, guarded)

	for _, c := range []struct{ name, spec, says string }{
		{"cidr", `rules: [{from: [{source: {ipBlocks: ["10.0.0.0/99"]}}]}]`, "10.0.0.0/99"},
		{"port", `rules: [{to: [{operation: {ports: ["http"]}}]}]`, "http"},
		{"layer7", `rules: [{to: [{operation: {methods: ["GET"]}}]}]`, "methods"},
		{"condition", `rules: [{when: [{key: "no.such.key", values: ["x"]}]}]`, "no.such.key"},
	} {
		apply(c.name, c.spec)
		meshlab.Eventually(t, "the status of policy "+c.name+" says what is wrong", func() error {
			out := meshlab.Kubectl(t, "-n", s.ns, "get", "authorizationpolicy", c.name, "-o", "jsonpath={.status.conditions}")
			if !strings.Contains(out, "AditAccepted") || !strings.Contains(out, `"False"`) || !strings.Contains(out, c.says) {
				return fmt.Errorf("it is %q", out)
			}
			return nil
		})
		if total, err := stranger.Try(t, guarded, "-timeout", "3s"); err == nil {
			t.Errorf("policy %s lets in whom no policy allows: %s", c.name, total)
		}
		if _, err := friend.Try(t, guarded); err != nil {
			t.Errorf("policy %s keeps out whom another policy allows: %v", c.name, err)
		}
	}
	// What the API server does not take does not get there.
	if out, err := meshlab.Cluster().Kubectl(t.Context(), "-n", s.ns, "patch", "authorizationpolicy", "friends", "--type=merge",
		"-p", `{"spec":{"action":"MAYBE"}}`); err == nil {
		t.Errorf("an action that does not exist is taken: %s", out)
	}
	s.unaffected(t, "malformed policies")
}
