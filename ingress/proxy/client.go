package proxy

import (
	"crypto/tls"
	"net/netip"
)

// Client is the connection that a request came on.
type Client struct {
	// Remote is who the client is: the socket's address, or what a trusted PROXY
	// header says. Trusted hops of X-Forwarded-For are looked at per request.
	Remote netip.AddrPort
	// Local is the address that the client connected to.
	Local netip.AddrPort
	// Port is the Gateway listener's port, which clients see.
	Port uint16
	// Gateway and Listener are namespace/name and the section's name.
	Gateway, Listener string
	// Hostname is that of the listener; "" = any.
	Hostname string
	// TLS is nil without TLS.
	TLS *tls.ConnectionState
	// AltSvc is the value of alt-svc for answers on this connection. "" = none.
	AltSvc string
	// TrustedProxies are how many hops of X-Forwarded-For, or whose, are believed.
	Trust Trust
	// Early says that the request came as 0-RTT data.
	Early bool
}

// Trust says which X-Forwarded-For entries are believed. The zero value trusts
// nobody: the client is the socket's peer, and what it claims is removed.
type Trust struct {
	Hops  int            // that many from the right
	CIDRs []netip.Prefix // or every one of these from the right
}
