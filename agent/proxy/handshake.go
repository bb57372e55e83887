package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/hbone"
	"github.com/adit-mesh/adit/identity"
)

// onHandshake reports the handshakes of a server; info says which server. One
// that failed has a line in the access log, for it was somebody's connection,
// unless they fail in floods: then a line stands for many.
func (p *Proxy) onHandshake(info telemetry.Info) func(net.Addr, time.Duration, error) {
	lines := new(lineLimit)
	return func(remote net.Addr, took time.Duration, err error) {
		p.tel.Handshake("server", handshakeResult(err), took)
		if errors.Is(err, hbone.ErrHandshakesFull) {
			p.tel.Overload("handshake")
		}
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
			return // a port probe says nothing and hangs up
		}
		info := info
		info.SourceAddr = addrPort(remote)
		info.Source = p.store.Workload(info.SourceAddr.Addr())
		flag := telemetry.FlagTLSFailure
		if svid := new(identity.SVIDError); errors.As(err, &svid) {
			flag = telemetry.FlagIdentityError
		}
		write, left := lines.take(time.Now())
		if !write {
			p.tel.FailQuietly(info, flag)
			return
		}
		if left > 0 {
			err = fmt.Errorf("%w (%d more handshakes failed since the last line)", err, left)
		}
		p.tel.Fail(info, err, flag)
	}
}

// Lines that the failed handshakes of one server may write: so many at once, and
// one more in each interval.
const (
	lineBurst    = 20
	lineInterval = time.Second
)

// lineLimit lets some lines of a flood through.
type lineLimit struct {
	mu   sync.Mutex // guards the fields below
	used int        // of lineBurst
	last time.Time  // when used last became smaller
	left int        // lines not written since the last that was
}

// take reports whether a line may be written, and how many were not since the
// last one.
func (l *lineLimit) take(now time.Time) (ok bool, left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := int(now.Sub(l.last) / lineInterval); n > 0 {
		l.used = max(0, l.used-n)
		l.last = now
	}
	if l.used == lineBurst {
		l.left++
		return false, 0
	}
	l.used++
	left, l.left = l.left, 0
	return true, left
}

func handshakeResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case isTimeout(err):
		return "timeout"
	case refusedPeer(err):
		return "refused"
	}
	return "error"
}

// refusedPeer reports whether the handshake was fine but for who the peer is.
func refusedPeer(err error) bool {
	for _, e := range []error{
		identity.ErrNoCertificate, identity.ErrNotSVID, identity.ErrForeignTrustDomain,
		identity.ErrExpired, identity.ErrUntrusted, identity.ErrUnexpectedPeer,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
