package meshtest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// adit why and a real connection agree: allowed, denied, and in plaintext.
func TestWhy(t *testing.T) {
	t.Parallel()
	ns, bare := meshlab.Namespace(t, true), meshlab.Namespace(t, false)
	meshlab.Create(t, ns, meshlab.PodSpec{Name: "intruder", Node: near, ServiceAccount: "intruder"})
	meshlab.Create(t, bare, meshlab.PodSpec{Name: "outsider", Node: near})
	client, server := pair(t, ns)
	intruder, outsider := meshlab.Ready(t, ns, "intruder"), meshlab.Ready(t, bare, "outsider")
	wantCaptured(t, client, server, intruder)

	wantWhy(t, client.Ref(), server.Ref()+":9000", "connects", "mTLS", "")
	wantWhy(t, client.Ref(), "service/"+ns+"/server:9000", "connects", "mTLS", "")
	client.Reach(t, "server:9000")
	wire := meshlab.Wire(t)
	wantWhy(t, outsider.Ref(), server.Ref()+":9000", "connects", "plaintext", "")
	outsider.Reach(t, server.At(9000))
	if len(wire.Plaintext(outsider.IP4())) == 0 {
		t.Error("a plaintext connection between the nodes is not seen on the wire; then the absence of others proves nothing")
	}
	wantWhy(t, client.Ref(), outsider.Ref()+":9000", "connects", "plaintext", "")
	client.Reach(t, outsider.At(9000))

	meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-client}
spec:
  selector: {matchLabels: {app: server}}
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/`+ns+`/sa/client"]}}]`)
	wantWhy(t, intruder.Ref(), server.Ref()+":9000", "refused", "", "policy")
	intruder.Refused(t, "server:9000")
	wantWhy(t, outsider.Ref(), server.Ref()+":9000", "refused", "", "")
	outsider.Refused(t, server.At(9000))
	wantWhy(t, client.Ref(), server.Ref()+":9000", "connects", "mTLS", "only-client")
	client.Reach(t, "server:9000")

	if out, err := meshlab.Adit("why", intruder.Ref(), server.Ref()+":9000"); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("adit why of a refused connection ends with %v, want exit status 3:\n%s", err, out)
	}
}

// DENY wins over ALLOW, and says so.
func TestDeny(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	client, server := pair(t, ns)
	client.Reach(t, server.At(9000))
	meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all}
spec: {action: ALLOW, rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: not-9000}
spec:
  action: DENY
  rules:
  - from: [{source: {namespaces: ["`+ns+`"]}}]
    to: [{operation: {ports: ["9000"]}}]`)
	wantWhy(t, client.Ref(), server.Ref()+":9000", "refused", "", "not-9000")
	client.Refused(t, server.At(9000))
	wantWhy(t, client.Ref(), server.Ref()+":8080", "connects", "mTLS", "")
	client.Reach(t, "http://"+server.At(8080)+"/")
	meshlab.Kubectl(t, "-n", ns, "delete", "authorizationpolicy", "not-9000")
	client.Reach(t, server.At(9000))
}

// A rule about HTTP cannot be judged without a waypoint: it lets nobody in, and
// the policy's status says why.
func TestRuleOfLayer7FailsClosed(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	client, server := pair(t, ns)
	client.Reach(t, server.At(9000))
	meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: gets}
spec:
  action: ALLOW
  rules:
  - to: [{operation: {methods: ["GET"]}}]`)
	wantWhy(t, client.Ref(), server.Ref()+":8080", "refused", "", "")
	client.Refused(t, "http://"+server.At(8080)+"/")
	meshlab.Eventually(t, "the status of the policy says that it is not enforced as written", func() error {
		status := meshlab.Kubectl(t, "-n", ns, "get", "authorizationpolicy", "gets", "-o",
			`jsonpath={.status.conditions[?(@.type=="AditAccepted")].status} {.status.conditions[?(@.type=="AditAccepted")].message}`)
		if !strings.HasPrefix(status, "False ") || !strings.Contains(status, "methods") {
			return fmt.Errorf("it says %q", status)
		}
		return nil
	})
	meshlab.Kubectl(t, "-n", ns, "delete", "authorizationpolicy", "gets")
	client.Reach(t, "http://"+server.At(8080)+"/")
}

// What cannot be read lets nobody in: neither beside a policy that can, nor in its place.
func TestMalformedPolicyNeverWidens(t *testing.T) {
	t.Parallel()
	ns := meshlab.Namespace(t, true)
	meshlab.Create(t, ns, meshlab.PodSpec{Name: "intruder", Node: near, ServiceAccount: "intruder"})
	client, server := pair(t, ns)
	intruder := meshlab.Ready(t, ns, "intruder")
	allow := func(name, account, ports string) {
		meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: `+name+`}
spec:
  action: ALLOW
  rules:
  - from: [{source: {principals: ["cluster.local/ns/`+ns+`/sa/`+account+`"]}}]
    to: [{operation: {ports: [`+ports+`]}}]`)
	}
	allow("client", "client", `"9000"`)
	intruder.Refused(t, server.At(9000))
	client.Reach(t, server.At(9000))

	allow("intruder", "intruder", `"nine thousand"`)
	wantNotAccepted(t, ns, "intruder")
	wantWhy(t, intruder.Ref(), server.Ref()+":9000", "refused", "", "")
	intruder.Refused(t, server.At(9000))
	client.Reach(t, server.At(9000))

	allow("client", "client", `"70000"`)
	wantNotAccepted(t, ns, "client")
	wantWhy(t, client.Ref(), server.Ref()+":9000", "refused", "", "")
	client.Refused(t, server.At(9000))
	intruder.Refused(t, server.At(9000))

	meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody}
spec:
  action: DENY
  rules:
  - from: [{source: {ipBlocks: ["10.244.1.0/77"]}}]`)
	allow("client", "client", `"9000"`)
	wantNotAccepted(t, ns, "nobody")
	wantWhy(t, client.Ref(), server.Ref()+":9000", "refused", "", "nobody")
	client.Refused(t, server.At(9000))
	meshlab.Kubectl(t, "-n", ns, "delete", "authorizationpolicy", "nobody")
	client.Reach(t, server.At(9000))
}

func wantNotAccepted(t *testing.T, ns, name string) {
	t.Helper()
	meshlab.Eventually(t, "the status of policy "+name+" names its fault", func() error {
		status := meshlab.Kubectl(t, "-n", ns, "get", "authorizationpolicy", name, "-o",
			`jsonpath={.metadata.generation}/{.status.conditions[?(@.type=="AditAccepted")].observedGeneration} {.status.conditions[?(@.type=="AditAccepted")].status}`)
		var generation, observed, accepted string
		if before, after, ok := strings.Cut(status, "/"); ok {
			generation = before
			observed, accepted, _ = strings.Cut(after, " ")
		}
		if accepted != "False" || generation != observed {
			return fmt.Errorf("it says %q", status)
		}
		return nil
	})
}

// Modes of namespaces and ports, against plaintext from a pod and from the nodes.
func TestPeerAuthentication(t *testing.T) {
	t.Parallel()
	ns, bare := meshlab.Namespace(t, true), meshlab.Namespace(t, false)
	meshlab.Create(t, bare, meshlab.PodSpec{Name: "outsider", Node: near})
	client, server := pair(t, ns)
	outsider := meshlab.Ready(t, bare, "outsider")
	wantCaptured(t, client, server)
	outsider.Reach(t, server.At(9000))
	for _, from := range []string{near, far} {
		if err := dialFromNode(t.Context(), from, server.At(9000)); err != nil {
			t.Errorf("node %s, permissive: %v", from, err)
		}
	}

	peerAuthentication(t, ns, "STRICT")
	wantWhy(t, outsider.Ref(), server.Ref()+":9000", "refused", "", "")
	for _, target := range []string{server.At(9000), server.At6(9000)} {
		outsider.Refused(t, target)
		wantNodeRefused(t, near, target)
		wantNodeRefused(t, far, target)
		client.Reach(t, target)
	}

	meshlab.Apply(t, ns, `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: server}
spec:
  selector: {matchLabels: {app: server}}
  mtls: {mode: STRICT}
  portLevelMtls: {9000: {mode: PERMISSIVE}}`)
	wantWhy(t, outsider.Ref(), server.Ref()+":9000", "connects", "plaintext", "")
	outsider.Reach(t, server.At(9000))
	outsider.Refused(t, "http://"+server.At(8080)+"/")
	client.Reach(t, "http://"+server.At(8080)+"/")

	meshlab.Kubectl(t, "-n", ns, "delete", "peerauthentication", "server")
	outsider.Refused(t, server.At(9000))
	peerAuthentication(t, ns, "PERMISSIVE")
	wantWhy(t, outsider.Ref(), server.Ref()+":9000", "connects", "plaintext", "")
	outsider.Reach(t, server.At(9000))
}

// A mode of the whole mesh, and a namespace that has its own.
func TestPeerAuthenticationOfTheMesh(t *testing.T) {
	ns, lax, bare := meshlab.Namespace(t, true), meshlab.Namespace(t, true), meshlab.Namespace(t, false)
	meshlab.Create(t, bare, meshlab.PodSpec{Name: "outsider", Node: near})
	meshlab.Create(t, lax, meshlab.PodSpec{Name: "server", Node: far})
	client, server := pair(t, ns)
	outsider, other := meshlab.Ready(t, bare, "outsider"), meshlab.Ready(t, lax, "server")
	outsider.Reach(t, server.At(9000))
	peerAuthentication(t, lax, "PERMISSIVE")
	peerAuthentication(t, meshlab.System, "STRICT")
	afterwards(t, func(ctx context.Context) error {
		_, err := meshlab.Cluster().Kubectl(ctx, "-n", meshlab.System, "delete", "peerauthentication", "default")
		return err
	})
	wantWhy(t, outsider.Ref(), server.Ref()+":9000", "refused", "", "")
	outsider.Refused(t, server.At(9000))
	client.Reach(t, server.At(9000))
	wantWhy(t, outsider.Ref(), other.Ref()+":9000", "connects", "plaintext", "")
	outsider.Reach(t, other.At(9000))
}
