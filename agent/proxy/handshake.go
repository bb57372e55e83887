package proxy

import (
	"errors"
	"io"
	"net"
	"time"

	"github.com/adit-mesh/adit/agent/telemetry"
	"github.com/adit-mesh/adit/identity"
)

// onHandshake reports the handshakes of a server; info says which server. One
// that failed has a line in the access log: it was somebody's connection.
func (p *Proxy) onHandshake(info telemetry.Info) func(net.Addr, time.Duration, error) {
	return func(remote net.Addr, took time.Duration, err error) {
		p.tel.Handshake("server", handshakeResult(err), took)
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
		p.tel.Fail(info, err, flag)
	}
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
