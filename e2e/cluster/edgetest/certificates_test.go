package edgetest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// TestRotation replaces a certificate under load, and wants the new one on both
// transports and no handshake to fail.
func TestRotation(t *testing.T) {
	s := openShop(t, false, 1)
	run := s.load(t)
	second := s.ca.fresh(t, s.host)
	meshlab.Apply(t, s.ns, secret("shop", second))
	for _, v := range []version{h1, h2, h3} {
		meshlab.Eventually(t, "the new certificate is served over "+string(v), func() error {
			// Twice, as there are two pods.
			for range 2 {
				c := s.client(v)
				_, err := c.get(t.Context(), s.url("/"))
				c.close()
				if err != nil {
					t.Error(err)
					return err
				}
				if got := c.leaf.Load().SerialNumber.String(); got != second.serial {
					return fmt.Errorf("it is %s still, not %s", got, second.serial)
				}
			}
			return nil
		})
	}
	run.progress(t, 5)
	run.sofar(t, "certificate rotated")
	for name, n := range run.unharmed(t, "certificate rotated") {
		if n.certs[second.serial] != n.ok && strings.HasSuffix(name, "new") {
			t.Errorf("%s: certificates by serial number: %v, want %s alone", name, n.certs, second.serial)
		}
	}
}

// TestBadObjects has each kind of broken listener beside one that works.
func TestBadObjects(t *testing.T) {
	s := openShop(t, false, 1)
	run := s.load(t)
	elsewhere := meshlab.Namespace(t, false)
	meshlab.Apply(t, elsewhere, secret("theirs", s.ca.fresh(t, "forbidden.example")))
	one, other := s.ca.fresh(t, "mismatch.example"), s.ca.fresh(t, "mismatch.example")
	// The API server does not look at a Secret's keys but for there being some.
	meshlab.Apply(t, s.ns, secret("mismatch", issued{cert: one.cert, key: other.key})+
		secret("expired", s.ca.issue(t, time.Now().Add(-time.Minute), "expired.example")))

	var listeners strings.Builder
	add := func(name, ref string) {
		fmt.Fprintf(&listeners, "  - {name: %[1]s, protocol: HTTPS, port: 443, hostname: %[1]s.example, tls: {certificateRefs: [%[2]s]}}\n", name, ref)
	}
	add("mismatch", "{name: mismatch}")
	add("missing", "{name: missing}")
	add("forbidden", "{name: theirs, namespace: "+elsewhere+"}")
	add("expired", "{name: expired}")
	meshlab.Apply(t, s.ns, `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shop}
spec:
  gatewayClassName: adit
  listeners:
  - {name: https, protocol: HTTPS, port: 443, hostname: shop.example, tls: {certificateRefs: [{name: shop}]}}
`+listeners.String())
	says := map[string]string{}
	for name, reason := range map[string]string{
		"mismatch": "InvalidCertificateRef", "missing": "InvalidCertificateRef", "forbidden": "RefNotPermitted", "expired": "CertificateExpired",
	} {
		says[name] = listener(t, s.ns, "shop", name, "ResolvedRefs", "False", reason)
		if name == "expired" { // it is what clients have to judge
			listener(t, s.ns, "shop", name, "Programmed", "True", "Programmed")
		} else {
			listener(t, s.ns, "shop", name, "Programmed", "False", "Invalid")
		}
	}
	for name, word := range map[string]string{"mismatch": "key", "missing": "missing", "forbidden": "ReferenceGrant", "expired": "expired"} {
		if !strings.Contains(says[name], word) {
			t.Errorf("the condition of listener %s says %q, and nothing of %q", name, says[name], word)
		}
	}
	listener(t, s.ns, "shop", "https", "Programmed", "True", "Programmed")

	for _, v := range []version{h2, h3} {
		for _, name := range []string{"mismatch", "missing", "forbidden"} {
			c := s.client(v)
			if a, err := c.get(t.Context(), "https://"+name+".example/"); err == nil {
				t.Errorf("%s over %s is answered %d", name, v, a.status)
			}
			c.close()
		}
		c := s.client(v)
		if _, err := c.get(t.Context(), "https://expired.example/"); !isExpired(err) {
			t.Errorf("expired over %s: %v; want the expired certificate", v, err)
		}
		c.close()
	}

	// What permits the reference mends the one listener.
	meshlab.Apply(t, elsewhere, fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: Gateway, namespace: %s}]
  to: [{group: "", kind: Secret, name: theirs}]`, s.ns))
	listener(t, s.ns, "shop", "forbidden", "Programmed", "True", "Programmed")
	c := s.client(h3)
	defer c.close()
	c.reach(t, "shop-", "https://forbidden.example/")

	badRoutes(t, s, elsewhere)
	run.unharmed(t, "bad objects beside it")
}

func isExpired(err error) bool {
	var bad *tls.CertificateVerificationError
	return err != nil && (errors.As(err, &bad) && strings.Contains(bad.Error(), "expired") || strings.Contains(err.Error(), "expired"))
}

// badRoutes wants references that do not resolve to have their reasons, and the
// answers that the specification names.
func badRoutes(t *testing.T, s *shop, elsewhere string) {
	meshlab.Service(t, elsewhere, "theirs", nil, nil)
	meshlab.Service(t, s.ns, "empty", nil, nil)
	c := s.client(h2)
	defer c.close()
	for _, r := range []struct {
		name, ref, status, reason string
		answer                    int
	}{
		{"no-service", "{name: nothing, port: 80}", "False", "BackendNotFound", 500},
		{"no-grant", "{name: theirs, namespace: " + elsewhere + ", port: 80}", "False", "RefNotPermitted", 500},
		{"no-kind", "{name: shop, kind: Sock, port: 80}", "False", "InvalidKind", 500},
		{"no-endpoint", "{name: empty, port: 80}", "True", "ResolvedRefs", 503},
	} {
		meshlab.Apply(t, s.ns, fmt.Sprintf(`
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %[1]s}
spec:
  parentRefs: [{name: shop, sectionName: https}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /%[1]s}}]
    backendRefs: [%[2]s]`, r.name, r.ref))
		route(t, s.ns, r.name, "ResolvedRefs", r.status, r.reason)
		route(t, s.ns, r.name, "Accepted", "True", "Accepted")
		c.refused(t, r.answer, s.url("/"+r.name))
	}
}
