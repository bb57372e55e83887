package ingress

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// serveH1 serves HTTP/1.1 on nc, which it closes, until the connection is over or
// drained.
func serveH1(c *conn, nc net.Conn, h http.Handler, state *tls.ConnectionState) {
	limits := &c.lp.srv.limits
	var handlers sync.WaitGroup
	done := make(chan struct{})
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			handlers.Add(1)
			defer handlers.Done()
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: limits.ReadHeaderTimeout,
		IdleTimeout:       limits.IdleTimeout,
		MaxHeaderBytes:    limits.HeaderBytes,
		ErrorLog:          slog.NewLogLogger(c.lp.srv.log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateClosed || s == http.StateHijacked {
				close(done)
			}
		},
	}
	stop := context.AfterFunc(c.soft, func() { srv.Shutdown(c.lp.srv.hard) })
	defer stop()
	srv.Serve(&oneConn{c: nc})
	<-done
	handlers.Wait()
	nc.Close()
}

// oneConn is a listener that accepts one connection.
type oneConn struct{ c net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.c; c != nil {
		l.c = nil
		return c, nil
	}
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }
