package ingress

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"golang.org/x/net/http2"
)

// serveH2 serves HTTP/2 on nc, which it closes, until the connection is over, or
// drained because soft has ended.
func serveH2(soft context.Context, nc net.Conn, h *requests) {
	s := h.lp.srv
	base := &http.Server{
		MaxHeaderBytes: s.limits.HeaderBytes,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	srv := &http2.Server{
		MaxConcurrentStreams: uint32(s.limits.Streams),
		IdleTimeout:          s.limits.IdleTimeout,
		WriteByteTimeout:     s.limits.WriteTimeout,
	}
	http2.ConfigureServer(base, srv)
	defer context.AfterFunc(soft, func() { base.Shutdown(s.hard) })()
	srv.ServeConn(nc, &http2.ServeConnOpts{Handler: h, BaseConfig: base})
	nc.Close()
}
