package route

import (
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestNormalise(t *testing.T) {
	for _, c := range []struct{ in, want, why string }{
		{"", "/", "an empty path is the root"},
		{"/", "/", "the root"},
		{"/a/b;v=1/c:d@e,(f)'!$&*+=~_-", "/a/b;v=1/c:d@e,(f)'!$&*+=~_-", "all that may stand there stays"},
		{"/.well-known/x", "/.well-known/x", "a dot is not a dot segment"},
		{"/a...b/...", "/a...b/...", "nor are three"},
		{"/a/./b", "/a/b", "."},
		{"/a/../b", "/b", ".."},
		{"/a/b/..", "/a/", ".. at the end leaves its slash"},
		{"/a/.", "/a/", ". at the end too"},
		{"/../../a", "/a", "there is nothing above the root"},
		{"/..", "/", "nor at the end"},
		{"/a/%2e%2E/b", "/b", "escaped dots are dots"},
		{"/a/.%2e/b", "/b", "half escaped ones too"},
		{"/a/%2e/b", "/a/b", "one escaped dot"},
		{"/a//b", "/a//b", "slashes are not merged"},
		{"/a//../b", "/a/b", "an empty segment is a segment"},
		{"//a", "//a", "nor at the beginning"},
		{"/%61dmin", "/admin", "an unreserved character is itself"},
		{"/%7euser", "/~user", "a tilde too"},
		{"/a%2fb", "/a%2Fb", "a slash stays escaped, in upper case"},
		{"/a%2Fb", "/a%2Fb", "as it is"},
		{"/%252e%252e/a", "/%252e%252e/a", "nothing is unescaped twice"},
		{"/%40", "/%40", "reserved ones are not the same escaped"},
		{"/é|{}\"", "/%C3%A9%7C%7B%7D%22", "what may not stand there is escaped"},
		{"/%c3%a9", "/%C3%A9", "upper case"},
		{"/a;x/..", "/", "a parameter is part of its segment"},
		{"/a/b.;c", "/a/b.;c", "a dot in a name"},
		{"/a%2F.b", "/a%2F.b", "a hidden file behind an escaped slash"},
	} {
		got, ok := Normalise(c.in)
		if !ok || got != c.want {
			t.Errorf("%s: %q is %q (%v), want %q", c.why, c.in, got, ok, c.want)
		}
	}
	for _, c := range []struct{ in, why string }{
		{"*", "no path"}, {"a/b", "relative"}, {"http://x/", "a URL"},
		{"/a b", "space"}, {"/a\x00", "NUL"}, {"/a%00", "escaped NUL"}, {"/a\r\n", "line end"}, {"/\x7f", "DEL"},
		{"/%", "cut escape"}, {"/%2", "cut escape"}, {"/%zz", "no escape"}, {"/%+1", "no escape"}, {"/%2e%", "cut after a good one"},
		{"/a\\..\\b", "backslash"}, {"/a?b", "question mark"}, {"/a#b", "fragment"},
		{"/a/..%2Fb", "escaped slash after .."}, {"/a/..%2fb", "in lower case"}, {"/a%2f..", "before .."}, {"/a%2f%2e%2e%2fb", "around it"},
		{"/a/..%5cb", "escaped backslash after .."}, {"/a/..;/b", ".. with a parameter"}, {"/a/..;x=1", "with a value"}, {"/.;/b", ". with a parameter"},
		{"/a/%2e%2e;/b", "escaped"}, {"/a/x%2F..;y%2Fb", "both"},
	} {
		if got, ok := Normalise(c.in); ok {
			t.Errorf("%s: %q is taken as %q", c.why, c.in, got)
		}
	}
}

func TestNormaliseAllocatesNothingForWhatIsNormal(t *testing.T) {
	for _, p := range []string{"/", "/api/v1/users/12345.json", "/.well-known/acme-challenge/x", "/a%2Fb/%C3%A9;v=1"} {
		if n := testing.AllocsPerRun(100, func() { Normalise(p) }); n != 0 {
			t.Errorf("%v allocations for %s", n, p)
		}
	}
}

func FuzzNormalise(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2E/a", "/a%2F..%2f", "//a//./", "/\xff|", "/%25%32%65", "/..;a/%5C"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, ok := Normalise(in)
		if !ok {
			return
		}
		if again, ok := Normalise(out); !ok || again != out {
			t.Fatalf("%q is %q, but that is %q (%v)", in, out, again, ok)
		}
		if out[0] != '/' {
			t.Fatalf("%q is %q", in, out)
		}
		for i := range len(out) {
			if b := out[i]; b <= ' ' || b >= 0x7f || strings.IndexByte("\\?#\"<>", b) >= 0 {
				t.Fatalf("%q is %q", in, out)
			}
		}
		plain, err := url.PathUnescape(out)
		if err != nil {
			t.Fatalf("%q is %q: %v", in, out, err)
		}
		// Whoever unescapes everything, takes backslashes for slashes and cuts
		// parameters off does not leave the directory either.
		for _, seg := range strings.Split(strings.ReplaceAll(plain, `\`, "/"), "/")[1:] {
			if name, _, _ := strings.Cut(seg, ";"); name == "." || name == ".." {
				t.Fatalf("%q is %q, in which %q hides", in, out, seg)
			}
		}
		if strings.Count(strings.ToUpper(in), "%2F") < strings.Count(out, "%2F") {
			t.Fatalf("%q is %q: an escaped slash more", in, out)
		}
		// Without empty segments it is what the library's path.Clean makes of it.
		if was, err := url.PathUnescape(in); err == nil && in != "" && !strings.Contains(was, "//") && !strings.Contains(strings.ToUpper(in), "%2F") {
			want := path.Clean(was)
			if got := path.Clean(plain); got != want {
				t.Fatalf("%q is %q, which is %q; want %q", in, out, got, want)
			}
		}
	})
}
