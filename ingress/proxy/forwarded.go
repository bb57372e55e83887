package proxy

import (
	"math/rand/v2"
	"net/netip"
	"strings"
)

// forwardedFor says who the client is, and what X-Forwarded-For the backend sees:
// the believed entries, and peer at the end.
//
// The chain of X-Forwarded-For and then peer is walked from the right. Each
// address that is trusted vouches for the one left of it; the first that nobody
// vouches for, or that is trusted by nobody, is the client. Nothing left of it is
// believed or sent on. With Trust.Hops, a chain shorter than that did not come
// through those hops, and nothing of it is believed.
func forwardedFor(lines []string, peer netip.Addr, t Trust) (client netip.Addr, header string) {
	peer = peer.Unmap().WithZone("")
	alone := peer.String()
	if len(lines) == 0 || t.Hops <= 0 && len(t.CIDRs) == 0 {
		return peer, alone
	}
	client = peer
	var kept [16]netip.Addr // the chain from the right, without peer
	n := 0
	for hop := 0; hop < len(kept); hop++ {
		if hop >= t.Hops && !inAny(t.CIDRs, client) {
			break
		}
		var entry string
		if entry, lines = lastEntry(lines); entry == "" {
			break
		}
		a, ok := parseHop(entry)
		if !ok {
			break // whatever is left of it went through that unknown too
		}
		client, kept[n] = a, a
		n++
	}
	if n < t.Hops {
		return peer, alone
	}
	if n == 0 {
		return peer, alone
	}
	var b strings.Builder
	b.Grow(16 * (n + 1))
	for i := n - 1; i >= 0; i-- {
		b.WriteString(kept[i].String())
		b.WriteString(", ")
	}
	b.WriteString(alone)
	return client, b.String()
}

// lastEntry takes the last entry of a list that may be spread over several lines.
// "" says that there is none, or that it is empty.
func lastEntry(lines []string) (string, []string) {
	if len(lines) == 0 {
		return "", nil
	}
	last := lines[len(lines)-1]
	i := strings.LastIndexByte(last, ',')
	if i < 0 {
		return strings.Trim(last, " \t"), lines[:len(lines)-1]
	}
	// The caller's slice is the request's: put the rest into one of our own.
	rest := append(lines[:len(lines)-1:len(lines)-1], last[:i])
	return strings.Trim(last[i+1:], " \t"), rest
}

// parseHop reads an entry: an address, which some proxies follow with a port.
func parseHop(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap(), a.Zone() == ""
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), ap.Addr().Zone() == ""
	}
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		if a, err := netip.ParseAddr(s[1 : len(s)-1]); err == nil {
			return a, a.Zone() == "" && a.Is6()
		}
	}
	return netip.Addr{}, false
}

func inAny(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// trustsPeer says whether the peer's own claims (X-Forwarded-Proto, X-Request-Id
// and the like) are believed.
func (t Trust) trustsPeer(peer netip.Addr) bool {
	return t.Hops > 0 || len(t.CIDRs) > 0 && inAny(t.CIDRs, peer.Unmap().WithZone(""))
}

// isInternal is what X-Envoy-Internal tells: the client has a private address.
func isInternal(a netip.Addr) bool { return a.IsPrivate() || a.IsLoopback() }

// forward sets the headers that tell the backend whom it speaks to. Those of an
// untrusted peer are gone by then.
func (t *transaction) forward(trusted bool) {
	h, c := t.r.Header, &t.x.Client
	client, chain := forwardedFor(h["X-Forwarded-For"], c.Remote.Addr(), c.Trust)
	if c.Remote.IsValid() {
		t.x.ForwardedFor = chain
		t.set(h, "X-Forwarded-For", chain)
	}
	if p := headerValue(h, "X-Forwarded-Proto"); !trusted || p != "http" && p != "https" {
		if c.TLS != nil {
			h["X-Forwarded-Proto"] = valueHTTPS
		} else {
			h["X-Forwarded-Proto"] = valueHTTP
		}
	}
	if isInternal(client) {
		h["X-Envoy-Internal"] = valueTrue
	} else if trusted {
		delete(h, "X-Envoy-Internal")
	}
	if ids := h["X-Request-Id"]; len(ids) == 1 && ids[0] != "" && len(ids[0]) <= 128 {
		t.x.RequestID = ids[0] // of somebody trusted, or it were gone
		return
	}
	t.x.RequestID = newRequestID()
	t.set(h, "X-Request-Id", t.x.RequestID)
}

const hexDigits = "0123456789abcdef"

// newRequestID returns a random UUID (RFC 9562, version 4). It is for finding
// things, not for guessing to be hard.
func newRequestID() string {
	var b [36]byte
	hi := rand.Uint64()&^0xf000 | 0x4000
	lo := rand.Uint64()&^(3<<62) | 1<<63
	appendHex(b[:0], hi>>32, 8)
	b[8] = '-'
	appendHex(b[9:9], hi>>16&0xffff, 4)
	b[13] = '-'
	appendHex(b[14:14], hi&0xffff, 4)
	b[18] = '-'
	appendHex(b[19:19], lo>>48, 4)
	b[23] = '-'
	appendHex(b[24:24], lo&0xffffffffffff, 12)
	return string(b[:])
}

// appendHex appends the last digits hexadecimal digits of v.
func appendHex(b []byte, v uint64, digits int) []byte {
	for i := digits - 1; i >= 0; i-- {
		b = append(b, hexDigits[v>>(4*i)&15])
	}
	return b
}
