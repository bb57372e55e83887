package ingress

import (
	"bufio"
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
	remote, local, err := readProxyHeader(r)
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
	if remote.IsValid() {
		c.remote = remote
	}
	if local.IsValid() {
		c.local = local
	}
	return true
}

// readProxyHeader reads a header, and nothing behind it. The addresses are the zero
// value if it names none: of a health check by the peer itself, say.
func readProxyHeader(r *bufio.Reader) (remote, local netip.AddrPort, err error) {
	h, err := proxyproto.Read(r)
	if err != nil || !h.Command.IsProxy() {
		return remote, local, err
	}
	src, dst, ok := h.TCPAddrs()
	if !ok {
		return remote, local, nil
	}
	return unmap(src.AddrPort()), unmap(dst.AddrPort()), nil
}
