package ingress

import (
	"context"
	"net"

	"github.com/adit-mesh/adit/ingress/h2"
)

// newH2 is what HTTP/2 is served with.
func newH2(s *Server) *h2.Server {
	return &h2.Server{
		PrefaceTimeout:    s.limits.ReadHeaderTimeout,
		ReadHeaderTimeout: s.limits.ReadHeaderTimeout,
		IdleTimeout:       s.limits.IdleTimeout,
		BodyTimeout:       s.limits.BodyTimeout,
		WriteTimeout:      s.limits.WriteTimeout,
		MaxStreams:        s.limits.Streams,
		MaxHeaderBytes:    s.limits.HeaderBytes,
		OnMalformed: func(p h2.Peer, err *h2.MalformedError) {
			s.log.Debug("malformed request", "client", p.RemoteAddr, "error", err)
		},
		Log: s.log,
	}
}

// serveH2 serves HTTP/2 on nc, which it closes, until the connection is over, or
// drained because soft has ended.
func serveH2(soft context.Context, nc net.Conn, h *requests) {
	h.lp.srv.h2.ServePeer(soft, nc, h, h2.Peer{RemoteAddr: h.remote.String(), TLS: h.tls})
}
