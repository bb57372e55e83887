package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-mesh/adit/agent/telemetry"
)

// TestOpeningIsBounded: a pod whose dials nobody answers has a bound of them
// under way; the connections beyond it wait, and all go through in the end.
func TestOpeningIsBounded(t *testing.T) {
	const most, all = 3, 12
	l := newLab(t)
	client := l.workload("client")
	l.apply()
	n := l.node(nil)
	n.maxOpening = most
	app, dst := serveTCP(t, netip.AddrPortFrom(l.addr(), 0), echo), netip.AddrPortFrom(l.addr(), 80)
	var under, highest atomic.Int32
	dialling, release := make(chan struct{}, all), make(chan struct{})
	p := n.serve(client, dst, func(pod *Pod) {
		pod.Dial = func(ctx context.Context, _ netip.AddrPort) (*net.TCPConn, error) {
			highest.Store(max(highest.Load(), under.Add(1)))
			defer under.Add(-1)
			dialling <- struct{}{}
			select {
			case <-release:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return dialFrom(ctx, client.Addresses[0], app)
		}
	})
	var conns []*net.TCPConn
	for range all {
		conns = append(conns, p.dial(dst))
	}
	for range most {
		select {
		case <-dialling:
		case <-time.After(10 * time.Second):
			t.Fatal("the first connections are not dialled within 10 s")
		}
	}
	close(release)
	for i, c := range conns {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := fmt.Fprintf(c, "%02d", i); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		got := make([]byte, 2)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != fmt.Sprintf("%02d", i) {
			t.Fatalf("connection %d: read %q, %v", i, got, err)
		}
	}
	if got := highest.Load(); got > most {
		t.Errorf("%d dials under way at once, want at most %d", got, most)
	}
}

// TestHandshakeLinesAreFew: handshakes that fail in floods write a few lines, and
// the next line says how many there were.
func TestHandshakeLinesAreFew(t *testing.T) {
	var l lineLimit
	now := time.Now()
	lines, left := 0, 0
	for range 1000 {
		if ok, n := l.take(now); ok {
			lines++
			left += n
		}
	}
	if lines != lineBurst || left != 0 {
		t.Errorf("%d lines at once, %d said to be missing; want %d and 0", lines, left, lineBurst)
	}
	if ok, n := l.take(now.Add(lineInterval)); !ok || n != 1000-lineBurst {
		t.Errorf("after %s: %v, %d missing; want a line that says %d", lineInterval, ok, n, 1000-lineBurst)
	}
	if ok, _ := l.take(now.Add(lineInterval)); ok {
		t.Error("a second line in one interval")
	}
	for i := range lineBurst + 1 {
		if ok, _ := l.take(now.Add(time.Hour)); ok != (i < lineBurst) {
			t.Fatalf("line %d after a quiet hour: %v", i, ok)
		}
	}
}

// A flood of failed handshakes is counted in full.
func TestHandshakeFloodIsCounted(t *testing.T) {
	lab := newLab(t)
	n := lab.node(nil)
	report := n.onHandshake(telemetry.Info{Reporter: telemetry.Destination, Mode: "hbone"})
	for range 100 {
		report(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}, time.Millisecond, errors.New("tls: no"))
	}
	eventually(t, "the lines have come", func() bool { return len(n.log.all()) >= lineBurst })
	for _, line := range n.log.all() {
		if !strings.Contains(fmt.Sprint(line["error"]), "tls: no") {
			t.Errorf("line %v", line)
		}
	}
	if got := len(n.log.all()); got > lineBurst+1 {
		t.Errorf("%d lines for 100 failed handshakes, want %d", got, lineBurst)
	}
}
