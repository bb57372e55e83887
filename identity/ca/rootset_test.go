package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func policy(t *testing.T) RotationPolicy {
	t.Helper()
	p, err := RotationPolicy{RootTTL: 1000 * time.Hour, MaxTTL: 24 * time.Hour, Propagation: time.Hour}.WithDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newSet(t testing.TB, p RotationPolicy) *RootSet {
	t.Helper()
	s, err := NewRootSet(domain, p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func states(s *RootSet) string {
	var names []string
	for _, r := range s.roots {
		names = append(names, string(r.State))
	}
	return strings.Join(names, " ")
}

// settle steps until there is nothing to do now, publishing after each step as
// the CA does if agents can be told.
func settle(t *testing.T, s *RootSet, p RotationPolicy, published *[]*x509.Certificate, canPublish, rotate bool) (*RootSet, time.Time) {
	t.Helper()
	for range 20 {
		next, what, again, err := s.Step(p, *published, rotate)
		if err != nil {
			t.Fatal(err)
		}
		rotate = false
		if next == s {
			if !canPublish || slices.EqualFunc(*published, s.Bundle(), (*x509.Certificate).Equal) {
				return s, again
			}
			*published = s.Bundle()
			continue
		}
		if what == "" {
			t.Error("a change without a word about it")
		}
		// What is kept between steps is the encoding.
		data, err := next.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if s, err = ParseRootSet(domain, data); err != nil {
			t.Fatalf("after %q: %v", what, err)
		}
	}
	t.Fatal("no end of steps")
	return nil, time.Time{}
}

// sign issues an SVID under the set's root as the server would.
func sign(t *testing.T, s *RootSet, p RotationPolicy) []*x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := s.Authority(p.MaxTTL)
	chain, err := a.Issuer.SignSVID(web, key.Public(), a.MaxTTL)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func trusted(chain, roots []*x509.Certificate) error {
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// TestRotationKeepsEverybodyTrusted follows a mesh through two rotations hour
// by hour: every SVID that is still valid verifies at every agent, those that
// learn late included.
func TestRotationKeepsEverybodyTrusted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(t)
		s := newSet(t, p)
		var published []*x509.Certificate
		s, _ = settle(t, s, p, &published, true, false)
		first := s.roots[0].cert

		var svids [][]*x509.Certificate
		late := published // what an agent knows that learns 50 minutes after the fact
		seen := map[string]bool{}
		for hour := range 1700 {
			time.Sleep(50 * time.Minute)
			s, _ = settle(t, s, p, &published, true, false)
			seen[states(s)] = true
			if hour%4 == 0 {
				svids = append(svids, sign(t, s, p))
			}
			svids = slices.DeleteFunc(svids, func(c []*x509.Certificate) bool { return !time.Now().Before(c[0].NotAfter) })
			for _, chain := range svids {
				for who, roots := range map[string][]*x509.Certificate{"published": published, "late": late} {
					if err := trusted(chain, roots); err != nil {
						t.Fatalf("hour %d, roots %s: an SVID from %s does not verify with the %s bundle: %v",
							hour, states(s), chain[0].NotBefore, who, err)
					}
				}
			}
			time.Sleep(10 * time.Minute)
			late = published
			s, _ = settle(t, s, p, &published, true, false)
		}
		if slices.ContainsFunc(published, first.Equal) {
			t.Error("the first root is trusted for ever")
		}
		for _, want := range []string{"signing", "signing published", "retiring signing"} {
			if !seen[want] {
				t.Errorf("never saw the states %q, only %v", want, seen)
			}
		}
	})
}

func TestRotationTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(t)
		s := newSet(t, p)
		var published []*x509.Certificate
		s, again := settle(t, s, p, &published, true, false)
		made := s.roots[0].cert.NotBefore
		if want := made.Add(time.Duration(0.8 * float64(s.roots[0].cert.NotAfter.Sub(made)))); !again.Equal(want) {
			t.Errorf("next step at %s, want four fifths of the root's life: %s", again, want)
		}

		s, again = settle(t, s, p, &published, true, true)
		if states(s) != "signing published" {
			t.Fatalf("a rotation was asked for: %s", states(s))
		}
		if d := time.Until(again); d != time.Hour {
			t.Errorf("the new root signs after %s, want the propagation of 1 h", d)
		}
		time.Sleep(time.Hour - time.Second)
		if s, _ = settle(t, s, p, &published, true, false); states(s) != "signing published" {
			t.Errorf("before the propagation is over: %s", states(s))
		}
		time.Sleep(time.Second)
		if s, again = settle(t, s, p, &published, true, false); states(s) != "retiring signing" {
			t.Errorf("after the propagation: %s", states(s))
		}
		if s.roots[0].issuer != nil {
			t.Error("the retiring root still has its key")
		}
		if d := time.Until(again); d != 24*time.Hour+retireMargin {
			t.Errorf("the old root is retired after %s, want the longest SVID and a margin", d)
		}
		time.Sleep(24*time.Hour + retireMargin)
		if s, _ = settle(t, s, p, &published, true, false); states(s) != "signing" || len(published) != 1 {
			t.Errorf("after the last SVID: %s, %d published", states(s), len(published))
		}
	})
}

func TestUnpublishedRootNeverSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(t)
		s := newSet(t, p)
		var published []*x509.Certificate
		s, _ = settle(t, s, p, &published, true, false)
		s, _ = settle(t, s, p, &published, false, true)
		time.Sleep(100 * time.Hour)
		if s, _ = settle(t, s, p, &published, false, true); states(s) != "signing made" {
			t.Errorf("the bundle cannot be published: %s", states(s))
		}
		s, _ = settle(t, s, p, &published, true, false)
		if states(s) != "signing published" {
			t.Errorf("it can be again: %s", states(s))
		}
		published = s.Bundle()[:1] // somebody put the old ConfigMap back
		time.Sleep(2 * time.Hour)
		if s, _ = settle(t, s, p, &published, false, false); states(s) != "signing published" {
			t.Errorf("the bundle has lost the next root, and it signs: %s", states(s))
		}
	})
}

func TestLongerCertificatesAreOutlived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(t)
		s := newSet(t, p)
		longer := p
		longer.MaxTTL = 48 * time.Hour
		if got := s.Authority(longer.MaxTTL).MaxTTL; got != 24*time.Hour {
			t.Errorf("before the set says so SVIDs may live for %s, want 24 h", got)
		}
		var published []*x509.Certificate
		s, _ = settle(t, s, longer, &published, true, false)
		if got := s.Authority(longer.MaxTTL).MaxTTL; got != 48*time.Hour {
			t.Errorf("SVIDs may live for %s, want 48 h", got)
		}
		// The other replica is still configured with less.
		if got := s.Authority(p.MaxTTL).MaxTTL; got != 24*time.Hour {
			t.Errorf("less counts at once: %s", got)
		}
		s, _ = settle(t, s, p, &published, true, true)
		time.Sleep(time.Hour)
		_, again := settle(t, s, p, &published, true, false)
		if d := time.Until(again); d != 48*time.Hour+retireMargin {
			t.Errorf("the old root is retired after %s, though it has signed for 48 h", d)
		}
	})
}

func TestExpiredRootIsReplacedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(t)
		s := newSet(t, p)
		time.Sleep(2000 * time.Hour) // the cluster was off
		data, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if s, err = ParseRootSet(domain, data); err != nil {
			t.Fatalf("an expired root is no broken one: %v", err)
		}
		var published []*x509.Certificate
		s, _ = settle(t, s, p, &published, true, false)
		if states(s) != "signing" {
			t.Errorf("states %s", states(s))
		}
		if err := trusted(sign(t, s, p), published); err != nil {
			t.Error(err)
		}
	})
}

func TestRotationsInQuickSuccessionAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy(t)
		s := newSet(t, p)
		var published []*x509.Certificate
		for range maxRootSet - 1 {
			s, _ = settle(t, s, p, &published, true, true)
			time.Sleep(p.Propagation)
			s, _ = settle(t, s, p, &published, true, false)
		}
		if _, _, _, err := s.Step(p, published, true); err == nil || !strings.Contains(err.Error(), "still trusted") {
			t.Errorf("rotation %d: %v", maxRootSet, err)
		}
		if next, _, _, err := s.Step(p, published, false); err != nil || next != s {
			t.Errorf("nothing was asked for: %v", err)
		}
	})
}

func TestPolicy(t *testing.T) {
	day := 24 * time.Hour
	tests := []struct {
		why  string
		p    RotationPolicy
		good bool
	}{
		{"defaults", RotationPolicy{}, true},
		{"a fifth is just enough", RotationPolicy{RootTTL: 125 * time.Hour}, true},
		{"the overlap does not fit", RotationPolicy{RootTTL: 5 * day}, false},
		{"long certificates", RotationPolicy{MaxTTL: 3 * 365 * day}, false},
		{"negative", RotationPolicy{Propagation: -1}, false},
	}
	for _, tt := range tests {
		if _, err := tt.p.WithDefaults(); (err == nil) != tt.good {
			t.Errorf("%s: %v", tt.why, err)
		}
	}
}

// encoded returns a set in the middle of a rotation.
func encoded(t testing.TB) (*RootSet, []byte) {
	t.Helper()
	p, _ := RotationPolicy{}.WithDefaults()
	s := newSet(t, p)
	for range 2 {
		next, _, _, err := s.Step(p, s.Bundle(), true)
		if err != nil {
			t.Fatal(err)
		}
		s = next
	}
	s = s.promote(s.upcoming(), p, now())
	data, err := s.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return s, data
}

func TestRootSetSurvivesItsEncoding(t *testing.T) {
	s, data := encoded(t)
	back, err := ParseRootSet(domain, data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := back.Encode()
	if err != nil || !bytes.Equal(again, data) || states(back) != states(s) {
		t.Errorf("read back as %s, %v", states(back), err)
	}
	if bytes.Count(data, []byte("PRIVATE KEY-----")) != 2 {
		t.Error("want one key, that of the root that signs")
	}
}

func TestMalformedRootSets(t *testing.T) {
	_, data := encoded(t)
	good := string(data)
	replace := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("the encoding has no %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	tests := []struct{ why, data, text string }{
		{"empty", "", "EOF"},
		{"not JSON", "root", "invalid"},
		{"newer", replace(`"version": 1`, `"version": 2`), "newer adit ca"},
		{"newer, with more in it", replace(`"version": 1`, `"version": 2, "hsm": true`), "newer adit ca"},
		{"unknown field", replace(`"version": 1`, `"version": 1, "x": 1`), "unknown field"},
		{"no version", replace(`"version": 1,`, ``), "version 0"},
		{"two documents", good + good, "follows"},
		{"no roots", `{"version":1}`, "0 roots sign"},
		{"nobody signs", replace(`"signing"`, `"published"`), "0 roots sign"},
		{"two sign", replace(`"retiring"`, `"signing"`), "no key"},
		{"unknown state", replace(`"retiring"`, `"revoked"`), "no key"},
		{"damaged certificate", replace(`BEGIN CERTIFICATE-----\n`, `BEGIN CERTIFICATE-----\nAAAA`), "root 1"},
		{"no PEM", replace(`-----BEGIN CERTIFICATE`, `-----BEGIN`), "root 1"},
		{"bad time to live", replace(`24h0m0s`, `a day`), "root 1"},
		{"no time to live", replace(`24h0m0s`, `0s`), "maxTTL"},
		{"trust domain renamed", "", ""},
	}
	for _, tt := range tests {
		td := domain
		if tt.text == "" {
			td, tt.data, tt.text = spiffeid.RequireTrustDomainFromString("other.example"), good, `configured is "other.example"`
		}
		if _, err := ParseRootSet(td, []byte(tt.data)); err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v; want something about %q", tt.why, err, tt.text)
		}
	}
}

func FuzzParseRootSet(f *testing.F) {
	_, data := encoded(f)
	f.Add(data)
	f.Add([]byte(`{"version":1,"roots":[{"state":"signing"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseRootSet(domain, data)
		if err != nil {
			return
		}
		// Whatever is accepted can be worked with.
		if s.Authority(time.Hour).Issuer == nil || len(s.Bundle()) == 0 {
			t.Error("accepted a set that cannot sign")
		}
		if _, err := s.Encode(); err != nil {
			t.Error(err)
		}
	})
}

func ExampleRootSet_Step() {
	p, _ := RotationPolicy{}.WithDefaults()
	s, _ := NewRootSet(domain, p)
	next, _, _, _ := s.Step(p, s.Bundle(), true) // somebody asked for a rotation
	for _, r := range next.Roots() {
		fmt.Println(r.State)
	}
	// Output:
	// signing
	// made
}
