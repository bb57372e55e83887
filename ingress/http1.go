package ingress

import (
	"context"
	"net"
	"net/http"

	"github.com/adit-mesh/adit/ingress/h1"
)

// newH1 is what HTTP/1.1 is served with, and what a connection in the clear begins
// with.
func newH1(s *Server) *h1.Server {
	return &h1.Server{
		ReadHeaderTimeout: s.limits.ReadHeaderTimeout,
		IdleTimeout:       s.limits.IdleTimeout,
		BodyTimeout:       s.limits.BodyTimeout,
		WriteTimeout:      s.limits.WriteTimeout,
		MaxHeaderBytes:    s.limits.HeaderBytes,
		Connect:           true, // refused as any other request, and recorded
		OnPreface: func(soft context.Context, nc net.Conn, h http.Handler) {
			serveH2(soft, nc, h.(*requests))
		},
		OnRefuse: func(p h1.Peer, err *h1.RefusedError) {
			s.log.Debug("malformed request", "client", p.RemoteAddr, "error", err)
		},
		Log: s.log,
	}
}

// serveH1 serves HTTP/1.1 on nc, which it closes, until the connection is over, or
// drained because soft has ended. In the clear it goes on with HTTP/2 if the client
// begins with its preface (RFC 9113 section 3.3).
func serveH1(soft context.Context, nc net.Conn, h *requests) {
	p := h1.Peer{RemoteAddr: h.remote.String(), TLS: h.tls}
	if r, ok := nc.(*replayConn); ok {
		p.Read, nc = r.buf, r.Conn
	}
	h.lp.srv.h1.ServePeer(soft, nc, h, p)
}
