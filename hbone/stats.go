package hbone

import (
	"net"
	"time"
)

// TunnelStats describes one tunnel.
type TunnelStats struct {
	Key           any // nil for a server's
	Local, Remote net.Addr
	Streams       int
	Since         time.Time
	RTT           time.Duration // of the last PING; 0 = not measured yet
	Queued        int           // bytes waiting for the wire
	Draining      bool
}

func (c *conn) stats(key any) TunnelStats {
	st := TunnelStats{
		Key: key, Local: c.wire.LocalAddr(), Remote: c.wire.RemoteAddr(),
		Since: c.born, RTT: time.Duration(c.rtt.Load()), Queued: c.w.backlog(),
	}
	c.mu.Lock()
	st.Streams, st.Draining = len(c.streams), c.draining
	c.mu.Unlock()
	return st
}

// Stats describes every tunnel of the pool.
func (p *Pool) Stats() []TunnelStats {
	type keyed struct {
		key any
		c   *conn
	}
	var all []keyed
	p.mu.Lock()
	for key, g := range p.groups {
		for _, c := range g.tunnels {
			all = append(all, keyed{key, c})
		}
	}
	p.mu.Unlock()
	out := make([]TunnelStats, 0, len(all))
	for _, k := range all {
		out = append(out, k.c.stats(k.key))
	}
	return out
}

// Stats describes every tunnel that the server has.
func (s *Server) Stats() []TunnelStats {
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	out := make([]TunnelStats, 0, len(conns))
	for _, c := range conns {
		out = append(out, c.stats(nil))
	}
	return out
}
