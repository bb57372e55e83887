package upstream

import (
	"cmp"
	"slices"
	"time"
)

// checked is how many of an endpoint's longest idle connections are looked at, at
// a time, whether the peer closed them.
const checked = 32

// reap closes connections that are idle for too long, that the peer closed, or
// that are too many. It is the one goroutine that looks after all of them.
func (s *Set) reap() {
	every := min(max(s.cfg.IdleTimeout/8, 10*time.Millisecond), 5*time.Second)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.stop.Done():
			return
		case <-tick.C:
			for _, p := range s.all() {
				p.reapIdle(sinceEpoch())
			}
		case <-s.crowded:
			s.thinOut()
		}
	}
}

// reapIdle closes what has been idle for too long, and what the peer closed.
func (p *peer) reapIdle(now int64) {
	var old []*conn1
	var unused []*conn2
	before := now - int64(p.set.cfg.IdleTimeout)
	p.mu.Lock()
	if len(p.idle) == 0 && len(p.shared) == 0 {
		p.mu.Unlock()
		return
	}
	n := 0
	for n < len(p.idle) && p.idle[n].idleSince <= before {
		n++
	}
	old = append(old, p.idle[:n]...)
	look := min(n+checked, len(p.idle))
	look1 := slices.Clone(p.idle[n:look])
	p.idle = slices.Delete(p.idle, 0, look)
	p.set.idle.Add(-int64(look))
	p.shared = slices.DeleteFunc(p.shared, func(c *conn2) bool {
		if c.streams == 0 && (c.idleSince <= before || c.staleLocked(now)) && c.endLocked() {
			unused = append(unused, c)
			return true
		}
		return false
	})
	p.mu.Unlock()

	for _, c := range old {
		c.close()
	}
	for _, c := range unused {
		c.close()
	}
	alive := look1[:0]
	for _, c := range look1 {
		if c.h1.Reusable() {
			alive = append(alive, c)
		} else {
			c.close()
		}
	}
	if len(alive) == 0 {
		return
	}
	p.mu.Lock()
	var late []*conn1
	for i, c := range alive {
		if c.staleLocked(now) {
			late = append(late, c)
			alive[i] = nil
		}
	}
	alive = slices.DeleteFunc(alive, func(c *conn1) bool { return c == nil })
	p.idle = slices.Insert(p.idle, 0, alive...)
	p.set.idle.Add(int64(len(alive)))
	for range alive {
		p.wakeLocked()
	}
	p.mu.Unlock()
	for _, c := range late {
		c.close()
	}
}

// thinOut closes the eighth of all idle connections that has been idle longest.
func (s *Set) thinOut() {
	peers := s.all()
	var since []int64
	for _, p := range peers {
		p.mu.Lock()
		for _, c := range p.idle {
			since = append(since, c.idleSince)
		}
		p.mu.Unlock()
	}
	if len(since) <= s.cfg.MaxIdle-s.cfg.MaxIdle/8 {
		return
	}
	slices.SortFunc(since, func(a, b int64) int { return cmp.Compare(a, b) })
	before := since[len(since)/8]
	for _, p := range peers {
		p.mu.Lock()
		n := 0
		for n < len(p.idle) && p.idle[n].idleSince <= before {
			n++
		}
		old := slices.Clone(p.idle[:n])
		p.idle = slices.Delete(p.idle, 0, n)
		s.idle.Add(-int64(n))
		p.mu.Unlock()
		for _, c := range old {
			c.close()
		}
	}
}
