package identity_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/adit-mesh/adit/identity"
)

// away leaves a source failing with err until its back-off is long.
func away(t *testing.T, err error) (*tracedSource, *identity.Manager) {
	t.Helper()
	source := newSource(t, time.Hour)
	source.fail(err)
	m := start(t, source)
	t.Cleanup(m.Acquire(alice))
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	if next := time.Until(m.Certificates()[0].NextAttempt); next < 10*time.Second {
		time.Sleep(next + time.Second) // now the pause is about 150 s, all of it ahead
		synctest.Wait()
	}
	if asked := source.times(); time.Since(asked[len(asked)-1]) < 10*time.Second {
		time.Sleep(10 * time.Second) // what was heard last is old
		synctest.Wait()
	}
	return source, m
}

func TestWaiterDoesNotWaitOutTheBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, m := away(t, errLine)
		source.fail(nil)
		begin := time.Now()
		if _, err := m.SVID(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		within(t, "the source is back and a pod waits: SVID after", time.Since(begin), 0, 5*time.Second)
	})
}

func TestWaitersShareTheirHurry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, m := away(t, errLine)
		before := len(source.times())
		done := make(chan struct{})
		for i := range 100 {
			go func() {
				defer func() { done <- struct{}{} }()
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if _, err := m.SVID(ctx, alice); !errors.Is(err, errLine) {
					t.Errorf("waiter: %v; want the source's reason", err)
				}
			}()
		}
		for range 100 {
			<-done
		}
		if n := len(source.times()) - before; n < 3 || n > 5 {
			t.Errorf("100 waiters of 20 s made %d attempts; want one each 5 s", n)
		}
	})
}

func TestNobodyWaitsBackoffStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, _ := away(t, errLine)
		before := len(source.times())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(source.times()) - before; n < 3 || n > 6 {
			t.Errorf("%d attempts in 10 min with nobody waiting; want one each 150 s or so", n)
		}
	})
}

func TestOldRefusalIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, m := away(t, identity.ErrRefused)
		before := len(source.times())
		if _, err := m.SVID(t.Context(), alice); !errors.Is(err, identity.ErrRefused) {
			t.Errorf("SVID: %v; want ErrRefused", err)
		}
		if n := len(source.times()) - before; n != 1 {
			t.Errorf("%d attempts for one waiter; want 1", n)
		}
		begin := time.Now()
		if _, err := m.SVID(t.Context(), alice); !errors.Is(err, identity.ErrRefused) || time.Since(begin) != 0 {
			t.Errorf("SVID: %v after %s; a fresh refusal is told at once", err, time.Since(begin))
		}

		source.fail(nil)
		time.Sleep(5 * time.Second)
		if _, err := m.SVID(t.Context(), alice); err != nil {
			t.Errorf("the source has changed its mind: %v", err)
		}
	})
}
