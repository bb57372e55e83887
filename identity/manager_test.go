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

func serial(t *testing.T, m *identity.Manager, id spiffeid.ID) string {
	t.Helper()
	svid, err := m.SVID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", svid.Certificates[0].SerialNumber)
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

func TestDropsAtTheLastRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		m := start(t, source)
		first, second := m.Acquire(alice), m.Acquire(alice)
		old := serial(t, m, alice)
		first()
		first()
		if serial(t, m, alice) != old {
			t.Error("one of two pods left, twice, and took the identity along")
		}
		second()
		if _, err := m.SVID(t.Context(), alice); !errors.Is(err, identity.ErrNotInUse) {
			t.Errorf("SVID after the last release: %v; want ErrNotInUse", err)
		}
		if c := m.Certificates(); len(c) != 0 {
			t.Errorf("still listed: %+v", c)
		}
		time.Sleep(2 * time.Hour)
		if n := len(source.times()); n != 1 {
			t.Errorf("%d fetches, want 1: a dropped identity is not renewed", n)
		}

		defer m.Acquire(alice)()
		if serial(t, m, alice) == old {
			t.Error("the dropped certificate came back")
		}
	})
}

func TestReleaseCallsOffTheFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		source.delay = 10 * time.Second
		m := start(t, source)
		release := m.Acquire(alice)
		failed := make(chan error, 1)
		go func() {
			_, err := m.SVID(context.Background(), alice)
			failed <- err
		}()
		synctest.Wait()
		release()
		begin := time.Now()
		if err := <-failed; !errors.Is(err, identity.ErrNotInUse) {
			t.Errorf("waiter: %v; want ErrNotInUse", err)
		}
		synctest.Wait()
		if d := time.Since(begin); d != 0 {
			t.Errorf("waiter freed after %s", d)
		}
		source.mu.Lock()
		defer source.mu.Unlock()
		if source.active != 0 {
			t.Error("the fetch goes on for an identity that nobody uses")
		}
	})
}

func TestFetchesAreBoundedAndDoNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		m := start(t, source)
		defer m.Acquire(alice)()
		serial(t, m, alice)

		source.delay = time.Second
		for i := range 40 {
			defer m.Acquire(spiffeid.RequireFromPathf(domain, "/ns/default/sa/pod-%d", i))()
		}
		synctest.Wait()
		begin := time.Now()
		serial(t, m, alice)
		m.ServerTLS(alice)
		m.Certificates()
		if d := time.Since(begin); d != 0 {
			t.Errorf("a current SVID took %s while others were fetched", d)
		}
		time.Sleep(6 * time.Second)
		synctest.Wait()
		source.mu.Lock()
		defer source.mu.Unlock()
		if source.maxAtOne != 8 {
			t.Errorf("%d fetches at once, want 8", source.maxAtOne)
		}
		if n := len(source.fetches); n != 41 {
			t.Errorf("%d fetches, want 41", n)
		}
	})
}

func TestWaitersShareOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		source.delay = time.Second
		m := start(t, source)
		defer m.Acquire(alice)()
		errs := make(chan error)
		for range 100 {
			go func() {
				_, err := m.SVID(context.Background(), alice)
				errs <- err
			}()
		}
		for range 100 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := len(source.times()); n != 1 {
			t.Errorf("%d fetches for one identity, want 1", n)
		}
	})
}

func TestWaiterLearnsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		m := start(t, source)

		source.fail(errLine)
		releaseAlice := m.Acquire(alice)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := m.SVID(ctx, alice)
		if !errors.Is(err, errLine) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("source down: %v; want its error and the deadline", err)
		}
		releaseAlice()

		source.fail(nil)
		source.delay = time.Hour
		releaseBob := m.Acquire(bob)
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err = m.SVID(ctx, bob); err == nil || !strings.Contains(err.Error(), "not answered") {
			t.Errorf("source silent: %v", err)
		}
		time.Sleep(13 * time.Second)
		if info := m.Certificates()[0]; !strings.Contains(info.LastError, "deadline") {
			t.Errorf("a source that never answers is not given up after 15 s: %+v", info)
		}
		releaseBob()
		source.delay = 0

		stranger := spiffeid.RequireFromString("spiffe://other.org/ns/default/sa/web")
		defer m.Acquire(stranger)()
		begin := time.Now()
		if _, err = m.SVID(t.Context(), stranger); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("foreign identity: %v; want ErrRefused", err)
		}
		if d := time.Since(begin); d != 0 {
			t.Errorf("a refusal that time does not cure took %s", d)
		}
	})
}

func TestSlowWaiterOutlivesAShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		source.fail(errLine)
		m := start(t, source)
		defer m.Acquire(alice)()
		time.AfterFunc(3*time.Second, func() { source.fail(nil) })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := m.SVID(ctx, alice); err != nil {
			t.Errorf("the source was back within the caller's deadline: %v", err)
		}
	})
}

func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		m := start(t, source)
		if err := m.Rotate(t.Context(), alice); !errors.Is(err, identity.ErrNotInUse) {
			t.Errorf("Rotate of an identity not in use: %v", err)
		}
		defer m.Acquire(alice)()
		old := serial(t, m, alice)
		if err := m.Rotate(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		if serial(t, m, alice) == old {
			t.Error("Rotate returned and the certificate is the old one")
		}

		source.delay = time.Second
		before := len(source.times())
		errs := make(chan error)
		for range 20 {
			go func() { errs <- m.Rotate(context.Background(), alice) }()
		}
		for range 20 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if n := len(source.times()) - before; n > 2 {
			t.Errorf("20 rotations at once cost %d fetches", n)
		}
		if source.overlap {
			t.Error("two fetches of one identity at once")
		}

		source.delay = 0
		source.fail(errLine)
		current := serial(t, m, alice)
		for range 5 {
			begin := time.Now()
			if err := m.Rotate(t.Context(), alice); !errors.Is(err, errLine) {
				t.Errorf("Rotate with the source down: %v", err)
			}
			if d := time.Since(begin); d != 0 {
				t.Errorf("Rotate waited %s for the back-off", d)
			}
		}
		if serial(t, m, alice) != current {
			t.Error("a failed rotation lost the certificate")
		}
	})
}

func TestStoppedManager(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := newSource(t, time.Hour)
		m := identity.NewManager(identity.ManagerConfig{Source: source})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		defer m.Acquire(alice)()
		want := serial(t, m, alice)

		source.delay = time.Minute
		defer m.Acquire(bob)()
		failed := make(chan error)
		go func() {
			_, err := m.SVID(context.Background(), bob)
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := <-failed; !errors.Is(err, identity.ErrStopped) {
			t.Errorf("waiter at stop: %v; want ErrStopped", err)
		}
		if got := serial(t, m, alice); got != want {
			t.Error("draining tunnels lost their certificate when the manager stopped")
		}
		if err := m.Rotate(t.Context(), alice); !errors.Is(err, identity.ErrStopped) {
			t.Errorf("Rotate after stop: %v", err)
		}
		if err := m.Run(t.Context()); err == nil {
			t.Error("a second Run is accepted")
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
