package upstream

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	backoffFirst = 100 * time.Millisecond
	backoffLast  = 10 * time.Second
	// trialTime is how long the one request has that tries an endpoint whose
	// backoff is over, before another one may try too.
	trialTime = time.Second
)

// health is what failed connects tell of an endpoint.
//
//	well ──failure──▶ left out ──time──▶ one request tries ──failure──▶ left out, twice as long
//	  ▲                                        │
//	  └────────────────success─────────────────┘
type health struct {
	until  atomic.Int64 // nanoseconds since epoch; 0 = well
	trying atomic.Bool  // somebody has claimed the trial

	mu       sync.Mutex
	failures int // in a row
	last     error
}

// epoch is what times are counted from: monotonic, and cheap to compare.
var epoch = time.Now()

func sinceEpoch() int64 { return int64(time.Since(epoch)) }

// ok says whether the endpoint is well, or may be tried again.
func (h *health) ok(now int64) bool {
	until := h.until.Load()
	return until == 0 || until <= now
}

// claim takes the turn to try an endpoint that failed. It is true for one that is
// well, too.
func (h *health) claim(now int64) bool {
	until := h.until.Load()
	switch {
	case until == 0:
		return true
	case until > now:
		return false
	}
	if !h.until.CompareAndSwap(until, now+int64(trialTime)) {
		return false
	}
	h.trying.Store(true)
	return true
}

// failed notes a failed connect. Those that failed beside another one in the same
// moment count once.
func (h *health) failed(err error, now int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = err
	if trial := h.trying.Swap(false); h.failures > 0 && h.until.Load() > now && !trial {
		return
	}
	wait := backoffLast
	if h.failures < 10 {
		wait = min(backoffFirst<<h.failures, backoffLast)
	}
	h.failures++
	wait += rand.N(wait/4+1) - wait/8
	h.until.Store(now + int64(wait))
}

// succeeded notes that the endpoint answers.
func (h *health) succeeded() {
	if h.until.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failures, h.last = 0, nil
	h.trying.Store(false)
	h.until.Store(0)
}

func (h *health) lastError() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}
