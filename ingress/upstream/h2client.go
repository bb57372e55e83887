package upstream

//lint:file-ignore SA1019 the successor, http.ClientConn, has no Ping, and only net/http may dial for it

import (
	"net"
	"net/http"

	"golang.org/x/net/http2"
)

type (
	h2Transport  = http2.Transport
	h2ClientConn = http2.ClientConn
)

// streamWindow is how much of one answer is taken from a backend before the client
// has taken it.
const streamWindow = 1 << 20

func newH2Transport(cfg SetConfig) *h2Transport {
	t, err := http2.ConfigureTransports(&http.Transport{
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{MaxReceiveBufferPerStream: streamWindow},
	})
	if err != nil {
		panic("upstream: " + err.Error()) // a new http.Transport has no HTTP/2 yet
	}
	t.MaxHeaderListSize = uint32(cfg.MaxHeaderBytes)
	return t
}

// newH2ClientConn begins HTTP/2 on c, which it owns from now on.
func newH2ClientConn(t *h2Transport, c net.Conn) (*h2ClientConn, error) { return t.NewClientConn(c) }
