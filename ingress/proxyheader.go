package ingress

import (
	"bufio"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// readProxyHeader takes the client's address from a PROXY header (HAProxy's
// proxy-protocol.txt, versions 1 and 2) if the peer is one of from, who must send
// one: without it nobody knows who the client is. Of others it is not taken; what
// they send is a request, or nonsense. LOCAL and UNKNOWN stand for the peer itself.
func (c *conn) readProxyHeader(from []netip.Prefix) bool {
	peer := false
	for _, p := range from {
		peer = peer || p.Contains(c.remote.Addr())
	}
	if !peer {
		return true
	}
	s := c.lp.srv
	done := c.within(s.limits.HandshakeTimeout)
	r := bufio.NewReaderSize(c.raw, 512)
	h, err := proxyproto.Read(r)
	if err != nil {
		done()
		s.cfg.Events.handshakeFailed(c.where, FailedProxyHeader)
		s.log.Debug("PROXY header; is the peer set to send one?", "bind", c.lp.bind, "peer", c.remote, "error", err)
		return false
	}
	if !done() {
		return false
	}
	if n := r.Buffered(); n > 0 {
		rest := make([]byte, n)
		r.Read(rest) // of the buffer alone
		c.net = &replayConn{Conn: c.raw, buf: rest}
	}
	if !h.Command.IsProxy() {
		return true
	}
	src, dst, ok := h.TCPAddrs()
	if !ok {
		return true
	}
	if a, ok := addrPort(src); ok {
		c.remote = a
	}
	if a, ok := addrPort(dst); ok {
		c.local = a
	}
	return true
}

func addrPort(a *net.TCPAddr) (netip.AddrPort, bool) {
	ap := unmap(a.AddrPort())
	return ap, ap.Addr().IsValid()
}
