package ingress

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"
)

// suites are those of TLS 1.2 that have forward secrecy and are not CBC. TLS 1.3
// has no others.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// refusing has no certificates and resumes nothing.
var refusing = &tls.Config{MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, NextProtos: []string{"h2", "http/1.1", "h3"}}

// policy is a TLSConfig made ready: one tls.Config for TCP and one for QUIC, with
// the same certificates and the same demands on clients.
//
// Session tickets are of one policy: a session that began under it resumes under
// no other, or it would carry its client past another listener's demand for a
// certificate.
type policy struct {
	of     *TLSConfig
	proto  Protocol
	usable bool // has a certificate
	id     string
	keys   keys
	epoch  atomic.Int64
	configs
}

type configs [2]*tls.Config // by transport

// newPolicy makes l.TLS ready. A policy that had the same TLSConfig is taken as it
// is, and one that made the same demands on clients hands its sessions on.
func newPolicy(l *Listener, gateway string, old *policy, k keys) *policy {
	if old != nil && old.proto != l.Protocol {
		old = nil
	}
	if old != nil && old.of == l.TLS {
		return old
	}
	p := &policy{of: l.TLS, proto: l.Protocol, usable: len(l.TLS.Certificates) > 0, keys: k}
	switch {
	case l.TLS.ClientCAs == nil:
		p.id = fmt.Sprintf("open %s %s %s %s %d", gateway, l.Owner, l.Name, l.Protocol, l.TLS.MinVersion)
	case old != nil && sameDemands(old.of, l.TLS):
		p.id = old.id
	default:
		// A pool of CAs has no name to derive a key from, so these sessions are
		// this process's.
		p.id = "verified " + rand.Text()
	}
	for via := range p.configs {
		c := &tls.Config{
			MinVersion:   max(tls.VersionTLS12, l.TLS.MinVersion),
			CipherSuites: suites,
			ClientCAs:    l.TLS.ClientCAs,
			ClientAuth:   clientAuth(l.TLS),
		}
		for _, cert := range l.TLS.Certificates {
			c.Certificates = append(c.Certificates, *cert)
		}
		switch {
		case transport(via) == overQUIC:
			c.NextProtos = []string{"h3"}
		case l.Protocol == HTTPS:
			c.NextProtos = []string{"h2", "http/1.1"}
		}
		p.configs[via] = c
	}
	p.rotate(time.Now())
	return p
}

// clientAuth is the same on both transports. With AllowInvalid a certificate is
// asked for but not verified; VerifiedChains of the connection is empty then, and
// nothing that it says is passed on.
func clientAuth(t *TLSConfig) tls.ClientAuthType {
	switch {
	case t.ClientCAs == nil:
		return tls.NoClientCert
	case t.AllowInvalid:
		return tls.RequestClientCert
	}
	return tls.RequireAndVerifyClientCert
}

// sameDemands says whether a and b ask the same of clients.
func sameDemands(a, b *TLSConfig) bool {
	if a.ClientCAs == nil || b.ClientCAs == nil {
		return a.ClientCAs == b.ClientCAs
	}
	return a.AllowInvalid == b.AllowInvalid && a.ClientCAs.Equal(b.ClientCAs)
}

// satisfiedBy says whether a connection that was let in under was may bring
// requests to p: its client would be let in today. was is nil if it is unknown.
func (p *policy) satisfiedBy(was *policy) bool {
	return p == was || p.of.ClientCAs == nil || p.of.AllowInvalid || was != nil && sameDemands(was.of, p.of)
}

func (p *policy) config(via transport) *tls.Config {
	p.rotate(time.Now())
	return p.configs[via]
}

// ticketEpoch is how long one key encrypts tickets. The one before it is still
// taken, so a session lives for one to two epochs.
const ticketEpoch = 12 * time.Hour

// rotate changes the keys of session tickets when their time has come.
func (p *policy) rotate(now time.Time) {
	epoch := now.Unix()/int64(ticketEpoch/time.Second) + 1 // never 0
	was := p.epoch.Load()
	if was == epoch || !p.epoch.CompareAndSwap(was, epoch) {
		return
	}
	for via, c := range p.configs {
		label := fmt.Sprintf("ticket %d %s", via, p.id)
		c.SetSessionTicketKeys([][32]byte{
			p.keys.derive(label, epoch),
			p.keys.derive(label, epoch-1),
			p.keys.derive(label, epoch+1), // of a gateway whose clock is ahead
		})
	}
}

// keys derives keys from one secret.
type keys struct{ secret []byte }

func (k keys) derive(label string, epoch int64) [32]byte {
	info := binary.BigEndian.AppendUint64([]byte("adit ingress "+label), uint64(epoch))
	key, err := hkdf.Expand(sha256.New, k.extract(), string(info), 32)
	if err != nil {
		panic(err) // only of an absurd length
	}
	return [32]byte(key)
}

func (k keys) extract() []byte {
	prk, err := hkdf.Extract(sha256.New, k.secret, nil)
	if err != nil {
		panic(err) // only in FIPS mode with a short secret, which New refuses
	}
	return prk
}
