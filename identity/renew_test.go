package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

func within(t *testing.T, why string, got, low, high time.Duration) {
	t.Helper()
	if got < low || got > high {
		t.Errorf("%s: %s; want between %s and %s", why, got, low, high)
	}
}

func TestRenewsAtHalfLifeWithJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, 24*time.Hour)
		m := start(t, source)
		const pods = 50
		for i := range pods {
			defer m.Acquire(spiffeid.RequireFromPathf(domain, "/ns/default/sa/pod-%d", i))()
		}
		synctest.Wait()
		begin := time.Now()
		if n := len(source.times()); n != pods {
			t.Fatalf("%d first fetches, want %d", n, pods)
		}

		time.Sleep(15 * time.Hour)
		synctest.Wait()
		renewals := source.times()[pods:]
		if len(renewals) != pods {
			t.Fatalf("%d renewals in 15 of 24 hours, want %d", len(renewals), pods)
		}
		distinct := make(map[time.Time]bool)
		for _, at := range renewals {
			within(t, "renewal after", at.Sub(begin), 10*time.Hour+45*time.Minute, 13*time.Hour+15*time.Minute)
			distinct[at] = true
		}
		if len(distinct) < pods/2 {
			t.Errorf("%d pods renewed at only %d moments: no jitter", pods, len(distinct))
		}
	})
}

func TestShortLivedCertificatesNeverLapse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, 10*time.Second)
		m := start(t, source)
		defer m.Acquire(alice)()
		synctest.Wait()
		for range 600 {
			ctx, cancel := context.WithTimeout(t.Context(), 0)
			if _, err := m.SVID(ctx, alice); err != nil {
				t.Fatalf("after %s: %v", time.Since(source.times()[0]), err)
			}
			cancel()
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(source.times()); n > 20 {
			t.Errorf("%d fetches in a minute for certificates of 10 s", n)
		}
	})
}

func TestKeepsTheOldOneWhileRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		m := start(t, source)
		defer m.Acquire(alice)()
		first := serial(t, m, alice)
		source.fail(errLine)

		time.Sleep(59 * time.Minute)
		if got := serial(t, m, alice); got != first {
			t.Errorf("serial changed from %s to %s though nothing was issued", first, got)
		}
		info := m.Certificates()[0]
		if info.LastError != errLine.Error() || info.Failures == 0 || info.Serial != first {
			t.Errorf("the dump hides the failing renewal: %+v", info)
		}

		time.Sleep(2 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := m.SVID(ctx, alice)
		if !errors.Is(err, errLine) || !strings.Contains(err.Error(), "expired at") {
			t.Errorf("SVID after expiry: %v; want the expiry and the source's error", err)
		}
		if _, ok := errors.AsType[*identity.SVIDError](err); !ok {
			t.Errorf("error is a %T, want *SVIDError", err)
		}

		source.fail(nil)
		time.Sleep(3 * time.Minute) // at most one back-off
		if got := serial(t, m, alice); got == first {
			t.Error("no new certificate once the source answers again")
		}
		if info := m.Certificates()[0]; info.LastError != "" || info.Failures != 0 {
			t.Errorf("a success leaves the failure in the dump: %+v", info)
		}
	})
}

func TestBacksOffPerIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		source.fail(errLine)
		m := start(t, source)
		release := m.Acquire(alice)
		time.Sleep(20 * time.Minute)
		release()

		times := source.times()
		want := 500 * time.Millisecond
		for i := 1; i < len(times); i++ {
			within(t, fmt.Sprintf("pause %d", i), times[i].Sub(times[i-1]), want*8/10, want*12/10)
			want = min(2*want, 150*time.Second)
		}
		if len(times) < 12 {
			t.Errorf("%d attempts in 20 minutes", len(times))
		}

		source.fail(nil)
		defer m.Acquire(bob)()
		before := time.Now()
		serial(t, m, bob)
		if d := time.Since(before); d != 0 {
			t.Errorf("another identity waited %s for alice's back-off", d)
		}
	})
}

func TestRefusesWhatPeersWouldRefuse(t *testing.T) {
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		stranger, err := ca.Open(ca.Config{TrustDomain: domain})
		if err != nil {
			t.Fatal(err)
		}
		forged, err := stranger.FetchX509SVID(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		source := newSource(t, time.Hour)
		stale, err := source.CA.FetchX509SVID(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		other, err := source.CA.FetchX509SVID(t.Context(), bob)
		if err != nil {
			t.Fatal(err)
		}

		m := start(t, source)
		for _, tt := range []struct {
			alter func(*x509svid.SVID) *x509svid.SVID
			want  string
		}{
			{func(*x509svid.SVID) *x509svid.SVID { return nil }, "without certificate"},
			{func(s *x509svid.SVID) *x509svid.SVID { s.PrivateKey = nil; return s }, "without certificate or key"},
			{func(s *x509svid.SVID) *x509svid.SVID { s.PrivateKey = otherKey; return s }, "does not match"},
			{func(*x509svid.SVID) *x509svid.SVID { return forged }, "not signed by a root"},
			{func(*x509svid.SVID) *x509svid.SVID { return other }, "certificate for spiffe://cluster.local/ns/default/sa/bob"},
			{func(*x509svid.SVID) *x509svid.SVID { return stale }, "is valid from"},
		} {
			source.mu.Lock()
			source.alter = tt.alter
			source.mu.Unlock()
			release := m.Acquire(alice)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := m.SVID(ctx, alice)
			cancel()
			release()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %q", err, tt.want)
			}
		}
	})
}

func TestSourceThatRepeatsAnOldCertificateIsNotHammered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		same, err := source.CA.FetchX509SVID(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		source.alter = func(*x509svid.SVID) *x509svid.SVID { return same }
		m := start(t, source)
		defer m.Acquire(alice)()
		time.Sleep(59 * time.Minute)
		if n := len(source.times()); n > 10 {
			t.Errorf("%d fetches of one and the same certificate within an hour", n)
		}
	})
}
