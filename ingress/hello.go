package ingress

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"

	"github.com/quic-go/quic-go"
)

// errThrough ends crypto/tls's part in a connection that is passed through, or
// would have been if there were a route for its server name.
var errThrough = errors.New("TLS does not end here")

// maxHello bounds what is kept of a ClientHello, records included. crypto/tls
// takes 64 KiB of it; the largest that clients send have a few.
const maxHello = 80 << 10

var errHelloTooLong = errors.New("the ClientHello is too long")

// recordingConn keeps what crypto/tls reads until it is known what the ClientHello
// asks for, so that it can be sent on as it was. The parser is crypto/tls's own:
// there is no second one that could see another server name.
type recordingConn struct {
	net.Conn
	of        *conn
	buf       []byte
	recording bool
	muted     bool
	decided   decision
}

// decidingConfig is that of every connection over TCP, until its ClientHello is
// there.
func decidingConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			rec := hello.Conn.(*recordingConn)
			c := rec.of
			c.sni = normaliseSNI(hello.ServerName)
			rec.decided = c.lp.index.Load().decide(c.sni, overTCP)
			if rec.decided.through || rec.decided.silent {
				rec.mute()
				return nil, errThrough
			}
			rec.stop()
			return rec.decided.config, nil
		},
	}
}

func (c *recordingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.recording {
		if len(c.buf)+n > maxHello {
			return 0, errHelloTooLong
		}
		c.buf = append(c.buf, b[:n]...)
	}
	return n, err
}

// Write drops the alert that crypto/tls sends when it is told to stop.
func (c *recordingConn) Write(b []byte) (int, error) {
	if c.muted {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// stop is called when TLS ends here.
func (c *recordingConn) stop() { c.recording, c.buf = false, nil }

// mute is called when TLS does not end here: nothing is written any more.
func (c *recordingConn) mute() { c.recording, c.muted = false, true }

// took is what was read until mute.
func (c *recordingConn) took() []byte { return c.buf }

// CloseWrite and NetConn are those of the connection below.
func (c *recordingConn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

func (c *recordingConn) NetConn() net.Conn { return c.Conn }

// handshakeReason is why a handshake of decision d ended with err.
func handshakeReason(d decision, err error) HandshakeReason {
	if d.refused != "" {
		return d.refused
	}
	var (
		verify  *tls.CertificateVerificationError
		alert   tls.AlertError
		timeout net.Error
		op      *net.OpError
		quicErr *quic.TransportError
	)
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return FailedTimeout
	case errors.As(err, &quicErr) && quicErr.Remote, errors.As(err, &op) && op.Op == "remote error":
		return FailedAlert
	case errors.As(err, new(tls.RecordHeaderError)):
		return FailedNotTLS
	case errors.As(err, &verify), err.Error() == "tls: client didn't provide a certificate":
		return FailedClientCertificate
	case errors.As(err, &alert) && (alert == alertBadCertificate || alert == alertCertificateRequired):
		return FailedClientCertificate
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return FailedClosed
	}
	return FailedProtocol
}

// Alerts of RFC 8446 section 6.2 that a server sends about client certificates.
const (
	alertBadCertificate      tls.AlertError = 42
	alertCertificateRequired tls.AlertError = 116
)

// tellNotTLS answers an HTTP request that came to a port of TLS, as far as err
// says that it was one.
func tellNotTLS(raw net.Conn, err error) {
	var record tls.RecordHeaderError
	if !errors.As(err, &record) || record.Conn == nil {
		return
	}
	switch string(record.RecordHeader[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		io.WriteString(raw, "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks TLS: use https://\n")
	}
}
