package h1

import (
	"net/http"
	"strings"
	"testing"
)

func FuzzCanonicalName(f *testing.F) {
	for _, s := range []string{"Host", "x-request-id", "X_Y", "a b", "", "-", "ETag", "aé", strings.Repeat("x-", 50)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := canonicalName(s)
		if ok != validToken(s) {
			t.Fatalf("%q is a name: %v", s, ok)
		}
		if ok && got != http.CanonicalHeaderKey(s) {
			t.Errorf("%q became %q, not %q", s, got, http.CanonicalHeaderKey(s))
		}
	})
}
