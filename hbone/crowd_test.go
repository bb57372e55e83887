package hbone

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// Connections that say nothing make room for those that do: a server has no more
// than MaxHandshakes under way, and ends the oldest first.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	const most = 8
	var crowded atomic.Int32
	r := newRig(t, scripted, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
		sc.Limits.MaxHandshakes = most
		sc.OnHandshake = func(_ net.Addr, _ time.Duration, err error) {
			if errors.Is(err, ErrHandshakesFull) {
				crowded.Add(1)
			}
		}
	})
	var silent []net.Conn
	for range 3 * most {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
	}
	// One that means it gets in beside them.
	s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
	if err != nil {
		t.Fatalf("a peer among silent ones: %v", err)
	}
	defer s.Close()
	eventually(t, "all but the last few have been ended", func() bool { return crowded.Load() == 2*most+1 })
	silent[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := silent[0].Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the oldest is not closed: %v", err)
	}
	r.server.mu.Lock()
	pending := len(r.server.pending)
	r.server.mu.Unlock()
	if pending > most {
		t.Errorf("%d handshakes under way, want at most %d", pending, most)
	}
}

// Evict ends a dial that is under way: its pod or its peer has gone. Whoever
// waited is told, and it counts as no failure of the destination.
func TestEvictEndsDials(t *testing.T) {
	r := newRig(t, scripted)
	dialling := make(chan struct{}, 1)
	target := r.target
	target.Dial = func(ctx context.Context) (net.Conn, error) {
		dialling <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	failed := make(chan error, 1)
	go func() {
		s, err := r.pool.Dial(context.Background(), target, Request{Authority: "echo:1"})
		if err == nil {
			s.Close()
		}
		failed <- err
	}()
	<-dialling
	r.pool.Evict(func(key any) bool { return key != target.Key })
	select {
	case err := <-failed:
		t.Fatalf("the dial of another key was ended: %v", err)
	case <-time.After(20 * time.Millisecond): // no condition to wait for: nothing may happen
	}
	r.pool.Evict(func(key any) bool { return key == target.Key })
	select {
	case err := <-failed:
		if !errors.Is(err, errEvicted) {
			t.Errorf("the dial ended with %v, want %v", err, errEvicted)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the dial goes on after Evict")
	}
	s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
	if err != nil {
		t.Fatalf("the next dial, at once: %v", err)
	}
	s.Close()
}
