package upstream

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
)

// peer is what clusters share of an endpoint: its health, how busy it is, and its
// connections.
type peer struct {
	set    *Set
	key    peerKey
	name   string // host:port
	id     string
	refs   int // hosts that refer to it; guarded by Set.mu
	names  names
	health health
	active atomic.Int64 // requests and streams under way
	meshed atomic.Bool  // the last connection was in the mesh
	// How to speak TLS by protocol; nil = not.
	h1TLS, h2TLS, streamTLS *tls.Config

	mu      sync.Mutex
	gen     uint64 // counts the times that its address changed hands
	retired bool   // of no cluster any more: what is idle is closed
	open    int    // connections for requests, those that are dialled included
	dials   int    // of streams, under way
	links   map[*link]struct{}
	addrs   map[netip.Addr]int // of a name: connections and dials by address
	idle    []*conn1           // the last one was used last
	shared  []*conn2
	opening []*opening2
	queue   []*waiter
	woken   int // of those that were in the queue, and have not looked yet
}

func newPeer(s *Set, key peerKey) *peer {
	p := &peer{set: s, key: key, name: key.host, links: make(map[*link]struct{})}
	if p.name == "" {
		p.name = key.addr.String()
	}
	mac := hmac.New(sha256.New, s.cfg.IDKey)
	mac.Write([]byte(p.name))
	p.id = hex.EncodeToString(mac.Sum(nil)[:8])
	if key.tls != nil {
		sessions := tls.NewLRUClientSessionCache(2)
		p.h1TLS = key.tls.clientConfig(sessions, "http/1.1")
		p.h2TLS = key.tls.clientConfig(sessions, "h2")
		p.streamTLS = key.tls.clientConfig(sessions)
	}
	return p
}

func (p *peer) hostPort() (string, uint16) {
	host, port, _ := net.SplitHostPort(p.key.host)
	n, _ := strconv.ParseUint(port, 10, 16)
	return host, uint16(n)
}

func (p *peer) generation() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gen
}

// dialing and undialed count the connections to, and dials of, one address of a
// name, so that evict knows whether the peer has any.
func (p *peer) dialing(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.addrs == nil {
		p.addrs = make(map[netip.Addr]int)
	}
	p.addrs[a]++
}

func (p *peer) undialed(a netip.Addr) {
	if p.key.host == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.undialedLocked(a)
}

func (p *peer) undialedLocked(a netip.Addr) {
	if p.addrs[a]--; p.addrs[a] <= 0 {
		delete(p.addrs, a)
	}
}

// adopt takes a new connection in. It is false if the address changed hands since
// its dial began.
func (p *peer) adopt(l *link) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.gen != p.gen {
		return false
	}
	p.links[l] = struct{}{}
	return true
}

// closedLink forgets a connection that is closed.
func (p *peer) closedLink(l *link) {
	p.mu.Lock()
	delete(p.links, l)
	if p.key.host != "" {
		p.undialedLocked(l.addr)
	}
	p.releaseLocked()
}

// releaseLocked gives a slot back, and p.mu.
func (p *peer) releaseLocked() {
	p.open--
	p.wakeLocked()
	gone := p.retired && p.unusedLocked()
	p.mu.Unlock()
	if gone {
		p.set.forget(p)
	}
}

// unusedLocked says whether the peer has no connection, and none on its way.
func (p *peer) unusedLocked() bool { return p.open == 0 && p.dials == 0 }

// evict ends the use of the connections that there are, if the peer's address is
// one of those that gone names.
func (p *peer) evict(gone func(netip.Addr) bool) {
	p.mu.Lock()
	hit := p.key.host == "" && gone(p.key.addr.Addr())
	for a := range p.addrs {
		hit = hit || gone(a)
	}
	if !hit {
		p.mu.Unlock()
		return
	}
	p.gen++
	p.endIdle()
}

// retire ends the use of the peer: what is under way goes on, what is idle closes.
func (p *peer) retire() {
	p.mu.Lock()
	p.retired = true
	unused := p.unusedLocked()
	p.endIdle()
	if unused {
		p.set.forget(p)
	}
}

// endIdle closes the connections that nobody uses, and lets those in use take no
// other request. It gives p.mu back.
func (p *peer) endIdle() {
	idle, shared := p.idle, p.shared
	p.idle, p.shared = nil, nil
	p.set.idle.Add(-int64(len(idle)))
	var unused []*conn2
	for _, c := range shared {
		if c.endLocked() {
			unused = append(unused, c)
		}
	}
	p.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
	for _, c := range unused {
		c.close()
	}
}

// closeAll cuts what is under way.
func (p *peer) closeAll() {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.shut()
	}
}
