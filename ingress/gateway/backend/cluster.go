package backend

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress/upstream"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// use is what a cluster is for: a port of a Service may be spoken to in several
// ways.
type use uint8

const (
	forHTTP   use = iota // by the port's appProtocol, and over TLS if a policy says so
	forGRPC              // HTTP/2, likewise
	forStream            // bytes that come out of a TLSRoute's TLS, likewise
	forBytes             // bytes as they come: no policy applies
	forUDP
)

// suffixes tell the keys of the uses apart. What is used most has none.
var suffixes = [...]string{forHTTP: "", forGRPC: "/grpc", forStream: "/tls", forBytes: "/tcp", forUDP: "/udp"}

// variant is one way to speak to a port of a Service.
type variant struct {
	use     use
	port    int32
	gateway types.NamespacedName // whose client certificate is presented; zero: nobody's
}

// key is "NAMESPACE/SERVICE:PORT", with a suffix for what is not plain HTTP, and
// the Gateway if the cluster is its own.
func (v variant) key(s types.NamespacedName) string {
	key := fmt.Sprintf("%s:%d%s", s, v.port, suffixes[v.use])
	if v.gateway != (types.NamespacedName{}) {
		key += "@" + v.gateway.String()
	}
	return key
}

func (v variant) protocol() corev1.Protocol {
	if v.use == forUDP {
		return corev1.ProtocolUDP
	}
	return corev1.ProtocolTCP
}

// cluster is the configuration of a variant, made when it is asked for.
type cluster struct {
	variant
	stale  bool
	config *upstream.Config
}

// Cluster is the configuration of a key that Resolve gave, nil if its Service,
// its port or its Gateway's certificate is gone. The pointer is the same as long
// as nothing of it changed.
func (x *Index) Cluster(key string) *upstream.Config {
	colon := strings.IndexByte(key, ':')
	if colon < 0 {
		return nil
	}
	namespace, name, _ := strings.Cut(key[:colon], "/")
	s := x.services[types.NamespacedName{Namespace: namespace, Name: name}]
	if s == nil || s.clusters[key] == nil {
		return nil
	}
	c := s.clusters[key]
	if c.stale {
		if next := x.configure(s, key, c.variant); c.config == nil || !equalConfigs(c.config, next) {
			c.config = next
		}
		c.stale = false
	}
	return c.config
}

func (x *Index) configure(s *service, key string, v variant) *upstream.Config {
	p := s.port(v.port, v.protocol())
	c := &upstream.Config{Key: key, Endpoints: s.endpoints(p, x.options), Locality: s.locality()}
	switch app, _ := applicationOf(p); v.use {
	case forGRPC:
		c.Protocol = upstream.H2
	case forHTTP:
		c.Protocol = app.protocol
	}
	if v.use == forBytes || v.use == forUDP {
		return c
	}
	if p := s.policyFor(p); p != nil {
		c.TLS = x.evaluate(p).tls(x.clients[v.gateway])
	}
	return c
}

func equalConfigs(a, b *upstream.Config) bool {
	return a.Key == b.Key && a.Protocol == b.Protocol && a.Locality == b.Locality && slices.Equal(a.Endpoints, b.Endpoints) && equalTLS(a.TLS, b.TLS)
}

func equalTLS(a, b *upstream.TLS) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ServerName == b.ServerName && a.Roots == b.Roots && slices.Equal(a.SANs, b.SANs) && a.Certificate == b.Certificate && a.Invalid == b.Invalid
}

// tls is what a policy asks for, with a client certificate or none.
func (e *evaluation) tls(c *tls.Certificate) *upstream.TLS {
	return &upstream.TLS{ServerName: e.serverName, Roots: e.roots, SANs: e.sans, Certificate: c, Invalid: e.invalid}
}
