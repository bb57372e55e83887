package backend

import (
	"strings"

	"github.com/adit-mesh/adit/ingress/upstream"
	corev1 "k8s.io/api/core/v1"
)

// application is what a port's appProtocol says of it: a name that IANA has, or
// one of Kubernetes' (KEP-3726).
type application struct {
	protocol upstream.Protocol
	tls      bool // it is spoken over TLS
	upgrade  bool // it begins as HTTP/1.1 and becomes WebSocket
}

// applications has the names in lower case: those of IANA are written in either.
// What is not here is nothing that an HTTP request could be sent over.
var applications = map[string]application{
	"":                  {},
	"tcp":               {}, // says no more than the port's protocol does
	"http":              {},
	"http/1.1":          {},
	"https":             {tls: true},
	"grpc-web":          {},
	"ws":                {upgrade: true},
	"kubernetes.io/ws":  {upgrade: true},
	"wss":               {upgrade: true, tls: true},
	"kubernetes.io/wss": {upgrade: true, tls: true},
	"h2c":               {protocol: upstream.H2},
	"kubernetes.io/h2c": {protocol: upstream.H2},
	"http2":             {protocol: upstream.H2},
	"h2":                {protocol: upstream.H2, tls: true}, // RFC 9113 section 3.1
	"grpc":              {protocol: upstream.H2},
}

func applicationOf(p *corev1.ServicePort) (app application, known bool) {
	name := ""
	if p.AppProtocol != nil {
		name = strings.ToLower(*p.AppProtocol)
	}
	app, known = applications[name]
	return app, known
}
