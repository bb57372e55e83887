package identity_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity"
)

func serial(t *testing.T, m *identity.Manager, id spiffeid.ID) string {
	t.Helper()
	svid, err := m.SVID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", svid.Certificates[0].SerialNumber)
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
