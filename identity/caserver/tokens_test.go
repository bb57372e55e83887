package caserver

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// register is an authenticator that knows the tokens it was told.
type register struct {
	mu    sync.Mutex
	of    map[string]Caller
	delay time.Duration
	away  error
	asked int
}

func (r *register) Authenticate(ctx context.Context, token string) (Caller, error) {
	r.mu.Lock()
	r.asked++
	caller, ok := r.of[token]
	delay, away := r.delay, r.away
	r.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return Caller{}, ctx.Err()
		}
	}
	switch {
	case away != nil:
		return Caller{}, away
	case !ok:
		return Caller{}, Refuse(ReasonToken, "unknown token")
	}
	return caller, nil
}

func (r *register) questions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked
}

func agent(node string, life time.Duration) Caller {
	return Caller{Namespace: "adit-system", ServiceAccount: "adit-agent", Pod: "agent-" + node, PodUID: "uid-" + node,
		Node: node, Expires: time.Now().Add(life)}
}

func startTokens(t *testing.T, auth Authenticator) *tokens {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tokens := newTokens(ctx, auth)
	t.Cleanup(func() { cancel(); tokens.wait() })
	return tokens
}

// ask is what the server does with a token.
func ask(tokens *tokens, token string) (Caller, error) {
	if caller, ok := tokens.remembered(token); ok {
		return caller, nil
	}
	return tokens.authenticate(context.Background(), token)
}

func TestTokensAreRememberedBriefly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &register{of: map[string]Caller{
			"long":  agent("a", time.Hour),
			"short": agent("b", 10*time.Second),
			"never": {Namespace: "adit-system", ServiceAccount: "adit-agent"},
		}}
		tokens := startTokens(t, auth)
		tests := []struct {
			why, token string
			pause      time.Duration
			questions  int
		}{
			{"the first time", "long", 0, 1},
			{"known", "long", 0, 1},
			{"almost a minute later", "long", tokenMemory - time.Second, 1},
			{"a minute later", "long", time.Second, 2},
			{"a token about to expire", "short", 0, 3},
			{"before it has", "short", 9 * time.Second, 3},
			{"a token without expiry", "never", 0, 4},
			{"is not remembered", "never", 0, 5},
		}
		auth.mu.Lock()
		auth.of["short"] = agent("b", tokenMemory+10*time.Second)
		auth.mu.Unlock()
		for _, tt := range tests {
			time.Sleep(tt.pause)
			if _, err := ask(tokens, tt.token); err != nil {
				t.Errorf("%s: %v", tt.why, err)
			}
			if n := auth.questions(); n != tt.questions {
				t.Errorf("%s: %d questions, want %d", tt.why, n, tt.questions)
			}
		}
		time.Sleep(time.Second)
		if _, ok := tokens.remembered("short"); ok {
			t.Error("a token outlives itself")
		}
	})
}

func TestRefusedTokensAreNotRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &register{of: map[string]Caller{}}
		tokens := startTokens(t, auth)
		if _, err := ask(tokens, "x"); refusal(t.Context(), err).Reason != ReasonToken {
			t.Errorf("%v", err)
		}
		auth.away = errors.New("connection refused")
		if _, err := ask(tokens, "x"); refusal(t.Context(), err).Reason != ReasonUnavailable {
			t.Errorf("the API server is away, which says nothing about the token: %v", err)
		}
		auth.away = nil
		auth.of["x"] = agent("a", time.Hour)
		if _, err := ask(tokens, "x"); err != nil {
			t.Errorf("good now: %v", err)
		}
	})
}

func TestOneQuestionPerTokenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &register{of: map[string]Caller{"x": agent("a", time.Hour)}, delay: time.Second}
		tokens := startTokens(t, auth)
		var callers sync.WaitGroup
		for range 50 {
			callers.Go(func() {
				if _, err := ask(tokens, "x"); err != nil {
					t.Error(err)
				}
			})
		}
		// One that goes away takes nobody's answer along.
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := tokens.authenticate(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		callers.Wait()
		if n := auth.questions(); n != 1 {
			t.Errorf("%d questions, want 1", n)
		}
	})
}

func TestMemoryOfTokensIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens := startTokens(t, &register{})
		for i := range 3 * maxTokens {
			tokens.mu.Lock()
			tokens.rememberLocked(sha256.Sum256(fmt.Append(nil, i)), agent("a", time.Hour))
			tokens.mu.Unlock()
		}
		if n := len(tokens.known); n > maxTokens {
			t.Errorf("%d tokens remembered, more than %d", n, maxTokens)
		}
	})
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimits[int](1, 3)
		for i, want := range []bool{true, true, true, false} {
			if got := l.allow(1); got != want {
				t.Errorf("request %d: %v", i+1, got)
			}
		}
		if !l.allow(2) {
			t.Error("one caller's haste is another's loss")
		}
		time.Sleep(time.Second)
		if !l.allow(1) || l.allow(1) {
			t.Error("want one more after a second")
		}
		for i := range 3 * maxKeys {
			l.allow(i)
		}
		if len(l.of) > maxKeys {
			t.Errorf("%d limiters, more than %d", len(l.of), maxKeys)
		}
	})
}
