package upstream

import (
	"errors"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	var h health
	refused := errors.New("refused")
	now := sinceEpoch()
	if !h.ok(now) || !h.claim(now) {
		t.Fatal("an endpoint that nobody tried is not well")
	}
	want := backoffFirst
	for i := range 12 {
		h.failed(refused, now)
		h.failed(refused, now) // a second request that failed in the same moment
		until := time.Duration(h.until.Load() - now)
		if until < want-want/8 || until > want+want/8 {
			t.Fatalf("failure %d: left out for %v, want %v give or take an eighth", i+1, until, want)
		}
		if h.ok(now + int64(until) - 1) {
			t.Fatal("chosen before its backoff was over")
		}
		now += int64(until)
		if !h.ok(now) {
			t.Fatal("not tried again after its backoff")
		}
		if !h.claim(now) {
			t.Fatal("nobody may try")
		}
		if h.claim(now) || h.ok(now+int64(trialTime)-1) {
			t.Fatal("a second request may try beside the first")
		}
		if !h.ok(now + int64(trialTime)) {
			t.Fatal("the turn of a request that told nothing did not end")
		}
		want = min(2*want, backoffLast)
	}
	if h.lastError() != refused {
		t.Errorf("the reason is %v", h.lastError())
	}
	h.succeeded()
	if !h.ok(now) || h.lastError() != nil {
		t.Error("not well after it answered")
	}
	h.failed(refused, now)
	if until := time.Duration(h.until.Load() - now); until > 2*backoffFirst {
		t.Errorf("failed for the first time since it was well: left out for %v", until)
	}
}
