package proxy

import (
	"testing"
	"time"
)

func TestChooseByWeight(t *testing.T) {
	bs := []Backend{{Weight: 3}, {Weight: 0}, {Weight: 1}, {Weight: -5}}
	var got [4]int
	for n := range shares(bs) {
		got[choose(bs, n)]++
	}
	if want := [4]int{3, 0, 1, 0}; got != want {
		t.Errorf("shares %v, want %v", got, want)
	}
	if shares([]Backend{{}, {}}) != 0 {
		t.Error("weights of zero make no share")
	}
	// The largest weights that Gateway API admits do not overflow.
	big := make([]Backend, 16)
	for i := range big {
		big[i].Weight = 1<<31 - 1
	}
	if i := choose(big, shares(big)-1); i != 15 {
		t.Errorf("last share goes to %d", i)
	}
}

func TestBackoff(t *testing.T) {
	for n := 1; n < 40; n++ {
		d := backoff(100*time.Millisecond, n)
		if d < 100*time.Millisecond || d > 2*time.Second {
			t.Errorf("before attempt %d: %v", n+1, d)
		}
	}
	const longest = 4 * 99999 * time.Hour // that Gateway API lets stand
	if d := backoff(longest, 1); d < time.Hour || d > 2*time.Hour {
		t.Errorf("the longest: %v", d)
	}
	if d := backoff(0, 1); d <= 0 || d > time.Second {
		t.Errorf("default: %v", d)
	}
}

func TestMirrorShare(t *testing.T) {
	count := func(m Mirror) (n int) {
		for range 10000 {
			if m.takes() {
				n++
			}
		}
		return n
	}
	if n := count(Mirror{}); n != 10000 {
		t.Errorf("unsaid share: %d of 10000", n)
	}
	if n := count(Mirror{Numerator: 0, Denominator: 100}); n != 0 {
		t.Errorf("0 per cent: %d", n)
	}
	if n := count(Mirror{Numerator: 1, Denominator: 4}); n < 2200 || n > 2800 {
		t.Errorf("a quarter: %d of 10000", n)
	}
}

func TestSessionToken(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := makeToken("ns/svc:80", "10.0.0.1:8080", now, now.Add(time.Minute))
	cluster, ep, begun, used, ok := parseToken(s)
	if !ok || cluster != "ns/svc:80" || ep != "10.0.0.1:8080" || !begun.Equal(now) || !used.Equal(now.Add(time.Minute)) {
		t.Errorf("came back as %q %q %v %v %v", cluster, ep, begun, used, ok)
	}
}

func FuzzSessionToken(f *testing.F) {
	f.Add(makeToken("a", "b", time.Unix(1, 0), time.Unix(2, 0)))
	f.Add("MSAgIA")
	f.Fuzz(func(t *testing.T, s string) {
		cluster, ep, begun, used, ok := parseToken(s)
		if ok && makeToken(cluster, ep, begun, used) == "" {
			t.Fatal("no token")
		}
	})
}
