package istio

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

// elements are PEM texts to build replies from.
func elements(t testing.TB) (leaf, intermediate, root string) {
	t.Helper()
	encode := func(c *x509.Certificate) string { return string(identity.EncodeCertificates([]*x509.Certificate{c})) }
	issuer, err := ca.NewRoot(domain, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := issuer.SignSVID(web, newKey(t).Public(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return encode(chain[0]), encode(newRoot(t).Certificate()), encode(issuer.Certificate())
}

func TestParseChain(t *testing.T) {
	leaf, intermediate, root := elements(t)
	tests := []struct {
		why   string
		chain []string
		want  int
		text  string
	}{
		{"leaf and root", []string{leaf, root}, 1, ""},
		{"an intermediate", []string{leaf, intermediate, root}, 2, ""},
		{"an intermediate in the first element", []string{leaf + intermediate, root}, 2, ""},
		{"several roots", []string{leaf, root + root}, 1, ""},
		{"the root is not looked at", []string{leaf, "whatever"}, 1, ""},
		{"a leaf alone", []string{leaf}, 1, ""},
		{"nothing", nil, 0, "empty"},
		{"an empty element", []string{leaf, "", root}, 0, "element 2 of 3"},
		{"a key", []string{strings.ReplaceAll(leaf, "CERTIFICATE", "PRIVATE KEY"), root}, 0, "want a certificate"},
		{"text", []string{leaf + "text", root}, 0, "not PEM"},
		{"too long", []string{strings.Repeat(leaf, maxChain+1), root}, 0, "more than"},
		{"too long in pieces", append(strings.SplitAfter(strings.Repeat(leaf, maxChain+1), "-----END CERTIFICATE-----\n")[:maxChain+1], root), 0, "more than"},
	}
	for _, tt := range tests {
		chain, err := parseChain(tt.chain)
		if len(chain) != tt.want || (err == nil) != (tt.text == "") || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %d certificates, %v; want %d, %q", tt.why, len(chain), err, tt.want, tt.text)
		}
	}
}

func FuzzParseChain(f *testing.F) {
	leaf, intermediate, root := elements(f)
	f.Add(leaf, root)
	f.Add(leaf+intermediate, root)
	f.Add("", "")
	key := newKey(f)
	f.Fuzz(func(t *testing.T, first, last string) {
		chain, err := parseChain([]string{first, last})
		if err != nil {
			return
		}
		if len(chain) == 0 || len(chain) > maxChain {
			t.Errorf("%d certificates", len(chain))
		}
		if checkLeaf(chain[0], web, key) == nil {
			t.Error("a certificate for a key that nobody knows")
		}
	})
}
