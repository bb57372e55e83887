package caserver

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// An agent asks for each of its identities when it starts, and then for
	// each once in half a life.
	callerRate, callerBurst = 50, 512
	// Unknown tokens of one address: each costs the API server a question.
	strangerRate, strangerBurst = 5, 50
	// Lines in the log about refusals; the metric counts them all.
	refusalLogRate, refusalLogBurst = 5, 50
	// maxKeys bounds the limiters of one kind.
	maxKeys = 8192
	// sweepEvery bounds how often a map that is full is searched for what can
	// go: a flood of new keys must not cost a search each.
	sweepEvery = time.Second
)

// limits are limiters by key. Keys come from strangers, so their number is
// bounded: one that is full of tokens again is as good as none.
type limits[K comparable] struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex // guards the fields below
	of    map[K]*rate.Limiter
	swept time.Time
}

func newLimits[K comparable](perSecond float64, burst int) *limits[K] {
	return &limits[K]{rate: rate.Limit(perSecond), burst: burst, of: make(map[K]*rate.Limiter)}
}

// allow takes a token of key's if there is one.
func (l *limits[K]) allow(key K) bool {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.of[key]
	if limiter == nil {
		l.makeRoomLocked(now)
		limiter = rate.NewLimiter(l.rate, l.burst)
		l.of[key] = limiter
	}
	return limiter.AllowN(now, 1)
}

func (l *limits[K]) makeRoomLocked(now time.Time) {
	if len(l.of) < maxKeys {
		return
	}
	if now.Sub(l.swept) >= sweepEvery {
		l.swept = now
		l.sweepLocked(now)
	}
	for key := range l.of {
		if len(l.of) < maxKeys {
			break
		}
		delete(l.of, key) // any: so many keys are an attack, and the memory is worth more
	}
}

func (l *limits[K]) sweepLocked(now time.Time) {
	for key, limiter := range l.of {
		if limiter.TokensAt(now) >= float64(l.burst) {
			delete(l.of, key)
		}
	}
}
