package file

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress/gateway"
)

func parseText(text string) *content {
	c := &content{}
	c.parse("a.yaml", text)
	return c
}

func TestSplit(t *testing.T) {
	docs := split("# head\n---\na: 1\n--- # two\nb: |\n  --- not here\n...\n---\n\n---\nc: 3")
	var got []string
	for _, d := range docs {
		got = append(got, strings.TrimSpace(d.text))
	}
	want := []string{"# head", "a: 1", "# two\nb: |\n  --- not here", "c: 3"}
	if len(got) != len(want) {
		t.Fatalf("%d documents, want %d: %q", len(got), len(want), got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("document %d is %q, want %q", i+1, got[i], want[i])
		}
	}
	for i, line := range []int{1, 2, 4, 10} {
		if docs[i].line != line {
			t.Errorf("document %d is said to begin in line %d, want %d", i+1, docs[i].line, line)
		}
	}
}

const seed = `apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata:
  name: backend
spec:
  parentRefs:
    - name: eg
  rules:
    - backendRefs:
        - name: backend
          port: 3000
---
apiVersion: v1
kind: Service
metadata: {name: backend, namespace: apps}
spec:
  ports:
    - port: 3000
  selector: {app: backend}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: backend}
---
kind: List
apiVersion: v1
items:
  - apiVersion: v1
    kind: Secret
    metadata: {name: s, managedFields: [{manager: kubectl}]}
    stringData: {a: b}
  - apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata: {name: e, labels: {kubernetes.io/service-name: backend}}
    addressType: FQDN
    endpoints: [{addresses: [backend.example]}]
    ports: [{port: 80}]
`

func TestDecodesWhatKubectlApplies(t *testing.T) {
	c := parseText(seed)
	if len(c.bad) != 1 || !c.bad[0].Harmless || c.bad[0].Line != 22 {
		t.Errorf("problems %v; want one harmless of the Deployment's kind in line 22", c.bad)
	}
	if !c.whole || len(c.good) != 4 {
		t.Fatalf("%d objects, want 4: %v", len(c.good), c.good)
	}
	r := c.good[0].object.(*gatewayv1.HTTPRoute)
	if r.Namespace != "default" || *r.Spec.Rules[0].BackendRefs[0].Weight != 1 || *r.Spec.Rules[0].Matches[0].Path.Value != "/" {
		t.Errorf("the route has not got its defaults: %+v", r)
	}
	if r.APIVersion != "gateway.networking.k8s.io/v1" {
		t.Errorf("the route is of %s, and its type of v1", r.APIVersion)
	}
	s := c.good[1].object.(*corev1.Service)
	if s.Spec.Ports[0].Protocol != corev1.ProtocolTCP || s.Spec.Ports[0].TargetPort.IntValue() != 3000 || s.Namespace != "apps" {
		t.Errorf("the Service has not got its defaults: %+v", s)
	}
	if secret := c.good[2].object.(*corev1.Secret); string(secret.Data["a"]) != "b" || secret.StringData != nil {
		t.Errorf("the Secret is %+v", secret)
	}
	if e := c.good[3].object.(*discoveryv1.EndpointSlice); *e.Ports[0].Protocol != corev1.ProtocolTCP || *e.Ports[0].Name != "" {
		t.Errorf("the slice is %+v", e)
	}
}

// Of Envoy Gateway's kinds one is read; what of it is not honoured is for its
// status to say.
func TestDecodesClientTrafficPolicy(t *testing.T) {
	c := parseText("apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: ClientTrafficPolicy\nmetadata: {name: enable-http3}\nspec:\n  http3: {}\n  timeout: {}\n  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: eg}\n")
	if len(c.bad) > 0 || len(c.good) != 1 {
		t.Fatalf("%d objects, problems %v", len(c.good), c.bad)
	}
	p := c.good[0].object.(*gateway.ClientTrafficPolicy)
	if !p.Spec.HTTP3 || len(p.Spec.Targets) != 1 || len(p.Spec.Refused) != 1 || p.Namespace != "default" {
		t.Errorf("read as %+v", p)
	}
}

func TestSaysWhereAndWhat(t *testing.T) {
	for _, c := range []struct {
		name, text string
		line       int
		want       string
	}{
		{"YAML that is none", "# c\n---\nb: [\n", 3, "a.yaml:3 (document 2): not YAML: did not"},
		{"a key twice", "a: 1\na: 2\n", 2, `key "a" already set`},
		{"no object", "- a\n", 1, "an object is wanted"},
		{"no kind", "apiVersion: v1\nmetadata: {name: a}\n", 1, "apiVersion and kind are required"},
		{"a kind of ours that is none", "apiVersion: gateway.networking.k8s.io/v1\nkind: HttpRoute\n", 2, "has no kind HttpRoute"},
		{"a version that is none", "apiVersion: gateway.networking.k8s.io/v2\nkind: HTTPRoute\n", 1, "use one of v1, v1beta1"},
		{"a field that is none", "# c\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\nspec:\n  rules:\n  - matches:\n    - paths: {}\n", 10,
			"HTTPRoute: spec.rules[0].matches[0].paths: there is no such field"},
		{"a field of metadata that is none", "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  name: r\n  nmespace: x\nspec: {}\n", 5, "metadata.nmespace: there is no such field"},
		{"a field of a core kind that is none", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  port: 80\n", 5, "spec.port: there is no such field"},
		{"a type of a core kind", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports: 80\n", 5, "spec.ports"},
		{"in a list", "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: s}\n  spec:\n    ports:\n    - port: 0\n", 9, "items[0].spec.ports[0].port: is 0, want 1 to 65535"},
		{"no name", "apiVersion: v1\nkind: Service\nmetadata: {}\n", 3, "metadata.name: is required"},
		{"a name that is none", "apiVersion: v1\nkind: Service\nmetadata:\n  name: A_B\n", 4, "metadata.name"},
		{"a class in a namespace", "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: a, namespace: b}\nspec: {controllerName: a.b/c}\n", 3, "is in no namespace"},
		{"endpoints of nobody", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e}\naddressType: IPv4\nendpoints: []\n", 3, "names the Service"},
		{"an address of another family", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: e, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints:\n- addresses:\n  - fd00::1\n", 7, "is no IPv4 address"},
	} {
		t.Run(c.name, func(t *testing.T) {
			content := parseText(c.text)
			if len(content.bad) == 0 {
				t.Fatal("no problem is seen")
			}
			p := content.bad[0]
			if p.Line != c.line || !strings.Contains(p.String(), c.want) {
				t.Errorf("%q; want line %d, and %q", p, c.line, c.want)
			}
		})
	}
}

func TestBrokenFileKeepsItsObjects(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n"
	c := parseText(service)
	c.parse("a.yaml", strings.Replace(service, "name: b", "nam: b", 1))
	if len(c.good) != 2 || len(c.bad) == 0 || !strings.Contains(c.bad[0].Message, "stays in force") {
		t.Errorf("%d objects and %v; want both, and the problem", len(c.good), c.bad)
	}
	c.parse("a.yaml", strings.Replace(service, "name: b", "name: c", 1))
	if len(c.good) != 2 || c.good[1].key.name != "c" || len(c.bad) != 0 {
		t.Errorf("objects %v, problems %v after the repair", c.good, c.bad)
	}
	// At the start there is nothing to keep, and what is good is better than nothing.
	if c = parseText(strings.Replace(service, "name: b", "nam: b", 1)); len(c.good) != 1 || c.whole {
		t.Errorf("%d objects of a file that was never whole, want the one that is good", len(c.good))
	}
}

// What stands where it stood is not decoded again.
func TestUnchangedDocumentsAreKept(t *testing.T) {
	const a, b = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n", "apiVersion: v1\nkind: Service\nmetadata: {name: b}\n"
	c := parseText(a + "---\n" + b)
	first, second := c.good[0].object, c.good[1].object
	c.parse("a.yaml", a+"---\n"+"# more\n"+"---\n"+b)
	if c.good[0].object != first || c.good[1].object != second {
		t.Error("objects were made anew")
	}
	if got := c.good[1].at; got.line != 6 && got.document != 3 {
		t.Errorf("the second object is said to be at %+v", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{seed, "a: 1\n---\nb: [", "--- {a: b}", "...", "kind: List\napiVersion: v1\nitems: [1]"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := parseText(text)
		// YAML has more line breaks than one.
		n := 1
		for _, r := range text {
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
				n++
			}
		}
		for _, p := range c.bad {
			if p.Line < 0 || p.Line > n+1 {
				t.Errorf("line %d of %d: %s", p.Line, n, p)
			}
		}
		for _, d := range c.good {
			if d.key.name == "" || d.key.kind == "" {
				t.Errorf("an object without a name: %+v", d.key)
			}
		}
	})
}
