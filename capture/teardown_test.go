package capture

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// A runtime that ends a pod takes lo down before it says so; that is no news
// unless it stays so.
func TestLoopbackDownIsReportedIfItStays(t *testing.T) {
	for _, test := range []struct {
		name   string
		down   time.Duration // after which lo is up again, or the namespace gone
		closed bool
		want   int
	}{
		{"pod ends", 300 * time.Millisecond, true, 0},
		{"lo comes back", 300 * time.Millisecond, false, 0},
		{"lo stays down", time.Hour, false, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				began := time.Now()
				var reported []time.Duration
				r := newReconciler(&Netns{name: "test"}, nil, func(Repair) { reported = append(reported, time.Since(began)) }, time.Minute)
				w := &watch{changed: make(chan struct{}, 1), cancel: func() {}}
				w.changed <- struct{}{}
				time.AfterFunc(test.down, func() { w.changed <- struct{}{} })
				err := r.run(ctx, w, func() ([]Repair, bool) {
					switch {
					case time.Since(began) < test.down:
						return []Repair{{Kind: RepairRoute, Err: fmt.Errorf("%w, says the test", errLoopbackDown)}}, true
					case test.closed:
						return nil, false
					}
					return nil, true
				})
				if err != nil || len(reported) != test.want {
					t.Errorf("reported at %s (%v), want %d reports", reported, err, test.want)
				}
				for _, at := range reported {
					if at < teardownTime {
						t.Errorf("reported after %s, want not before %s", at, teardownTime)
					}
				}
			})
		})
	}
}
