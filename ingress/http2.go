package ingress

import (
	"context"
	"log/slog"
	"net"
	"net/http"

	"golang.org/x/net/http2"
)

// serveH2 serves HTTP/2 on nc, which it closes, until the connection is over or
// drained.
func serveH2(c *conn, nc net.Conn, h http.Handler) {
	limits := &c.lp.srv.limits
	base := &http.Server{
		MaxHeaderBytes: limits.HeaderBytes,
		ErrorLog:       slog.NewLogLogger(c.lp.srv.log.Handler(), slog.LevelDebug),
	}
	srv := &http2.Server{
		MaxConcurrentStreams: uint32(limits.Streams),
		IdleTimeout:          limits.IdleTimeout,
	}
	http2.ConfigureServer(base, srv)
	stop := context.AfterFunc(c.soft, func() { base.Shutdown(c.lp.srv.hard) })
	defer stop()
	srv.ServeConn(nc, &http2.ServeConnOpts{Handler: h, BaseConfig: base, Context: c.lp.srv.hard})
	nc.Close()
}
