package ingress

import (
	"strings"
	"testing"
)

func TestNormaliseHost(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"example.org":           "example.org",
		"Example.ORG:8443":      "example.org",
		"example.org.":          "example.org",
		"example.org.:443":      "example.org",
		"example.org:":          "example.org",
		"a_b.example.org":       "a_b.example.org",
		"10.0.0.1:80":           "10.0.0.1",
		"[::1]":                 "[::1]",
		"[2001:DB8::1]:443":     "[2001:db8::1]",
		"xn--bcher-kva.example": "xn--bcher-kva.example",
	} {
		got, ok := normaliseHost(in)
		if !ok || got != want {
			t.Errorf("normaliseHost(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{
		".", "..", ".example.org", "a..b", "a.b..", "a b", "a/b", "user@a", "a,b", "a\x00b", "a%2e",
		"a:80:80", "a:99999", "a:x", "[", "[]", "[:]", "[::1", "[::1]x", "[::1]:x", "[g::1]", "bücher.example",
		"*.example.org", strings.Repeat("a", 300), ":80",
	} {
		if got, ok := normaliseHost(in); ok {
			t.Errorf("normaliseHost(%q) = %q, want it refused: a backend may read it otherwise", in, got)
		}
	}
}

func TestHostTable(t *testing.T) {
	var table hostTable[string]
	for _, h := range []string{"", "*.example.org", "*.a.example.org", "b.example.org", "*.org"} {
		if !table.set(h, h+"!") {
			t.Fatalf("%q was there already", h)
		}
	}
	if table.set("*.example.org", "other") {
		t.Error("a hostname that is there was replaced: the first has precedence")
	}
	for host, want := range map[string]string{
		"b.example.org":     "b.example.org!",
		"c.example.org":     "*.example.org!",
		"x.y.a.example.org": "*.a.example.org!",
		"a.example.org":     "*.example.org!",
		"example.org":       "*.org!",
		"org":               "!",
		"":                  "!",
		"[::1]":             "!",
		".org":              "!",
	} {
		if got, ok := table.get(host); !ok || got != want {
			t.Errorf("get(%q) = %q, %v; want %q", host, got, ok, want)
		}
	}
	var empty hostTable[string]
	if v, ok := empty.get("a"); ok {
		t.Errorf("an empty table found %q", v)
	}
}

// slowHostTable is hostTable as the specification says it: compare with all.
func slowHostTable(names []string, host string) string {
	best, bestLen := "none", -1
	for _, n := range names {
		switch {
		case n == host && host != "":
			return n
		case n == "" && bestLen < 0:
			best, bestLen = n, 0
		case strings.HasPrefix(n, "*.") && len(n) > bestLen && len(host) > len(n)-1 && strings.HasSuffix(host, n[1:]):
			best, bestLen = n, len(n)
		}
	}
	return best
}

func FuzzNormaliseHost(f *testing.F) {
	for _, s := range []string{"example.org", "A.b:80", "[::1]:443", "a..b", "x.y.a.example.org.", "\x00"} {
		f.Add(s)
	}
	names := []string{"", "*.example.org", "*.a.example.org", "b.example.org", "*.org", "*.b"}
	var table hostTable[string]
	for _, n := range names {
		table.set(n, n)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, ok := normaliseHost(in)
		if !ok {
			return
		}
		if again, ok := normaliseHost(got); !ok || again != got {
			t.Errorf("normaliseHost(%q) = %q, which becomes %q, %v: not a fixed point", in, got, again, ok)
		}
		if strings.ContainsAny(got, "/@ \t\r\n\x00,%") || strings.ToLower(got) != got {
			t.Errorf("normaliseHost(%q) = %q holds what no host does", in, got)
		}
		found, _ := table.get(got)
		if want := slowHostTable(names, got); found != want {
			t.Errorf("get(%q) = %q, want %q", got, found, want)
		}
	})
}
