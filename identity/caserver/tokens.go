package caserver

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// tokenMemory is how long a token that was good is taken for good: the
	// time in which an agent that starts asks for all of its pods. A token
	// that is withdrawn, its pod being deleted, works for that much longer.
	tokenMemory = time.Minute
	// maxTokens bounds the memory of tokens; there is one per agent.
	maxTokens = 8192
	// authTimeout bounds one question to the Authenticator. It is not the
	// caller's: others may wait for the same answer.
	authTimeout = 8 * time.Second
)

// tokens remembers whose token is whose, by hash. One token is asked about
// once at a time.
type tokens struct {
	auth Authenticator
	ctx  context.Context // ends questions under way with the server

	mu      sync.Mutex // guards the fields below
	known   map[[sha256.Size]byte]knownToken
	asking  map[[sha256.Size]byte]*question
	swept   time.Time
	working sync.WaitGroup
}

type knownToken struct {
	caller Caller
	until  time.Time
}

type question struct {
	done   chan struct{} // closed when the fields below are set
	caller Caller
	err    error
}

func newTokens(ctx context.Context, auth Authenticator) *tokens {
	return &tokens{
		auth:   auth,
		ctx:    ctx,
		known:  make(map[[sha256.Size]byte]knownToken),
		asking: make(map[[sha256.Size]byte]*question),
	}
}

// remembered returns whose token it is, if that is known already.
func (t *tokens) remembered(token string) (Caller, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.known[sha256.Sum256([]byte(token))]
	if !ok || !time.Now().Before(k.until) {
		return Caller{}, false
	}
	return k.caller, true
}

// authenticate asks whose token it is.
func (t *tokens) authenticate(ctx context.Context, token string) (Caller, error) {
	key := sha256.Sum256([]byte(token))
	t.mu.Lock()
	q := t.asking[key]
	if q == nil {
		q = &question{done: make(chan struct{})}
		t.asking[key] = q
		t.working.Go(func() { t.ask(key, token, q) })
	}
	t.mu.Unlock()

	select {
	case <-q.done:
		return q.caller, q.err
	case <-ctx.Done():
		return Caller{}, ctx.Err()
	}
}

func (t *tokens) ask(key [sha256.Size]byte, token string, q *question) {
	ctx, cancel := context.WithTimeout(t.ctx, authTimeout)
	defer cancel()
	q.caller, q.err = t.auth.Authenticate(ctx, token)

	t.mu.Lock()
	delete(t.asking, key)
	if q.err == nil {
		t.rememberLocked(key, q.caller)
	}
	t.mu.Unlock()
	close(q.done)
}

func (t *tokens) rememberLocked(key [sha256.Size]byte, caller Caller) {
	now := time.Now()
	until := now.Add(tokenMemory)
	if caller.Expires.Before(until) {
		until = caller.Expires
	}
	if !now.Before(until) {
		return
	}
	if len(t.known) >= maxTokens && now.Sub(t.swept) >= sweepEvery {
		t.swept = now
		for k, v := range t.known {
			if !now.Before(v.until) {
				delete(t.known, k)
			}
		}
	}
	for k := range t.known {
		if len(t.known) < maxTokens {
			break
		}
		delete(t.known, k) // any: its owner is asked about once more
	}
	t.known[key] = knownToken{caller: caller, until: until}
}

// wait returns when no question is under way. No call is by then, and the
// context has ended.
func (t *tokens) wait() { t.working.Wait() }
