package ingress

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxDatagram is the largest payload of UDP.
const maxDatagram = 65507

// relayUDP carries datagrams of clients to backends and back. Each client address
// has a session: one socket toward one backend, so that replies find their way
// and a backend sees one peer per client.
type relayUDP struct {
	lp   *livePort
	conn *net.UDPConn
	ctx  context.Context // ends with the socket
	end  context.CancelFunc
	wg   sync.WaitGroup // of sessions

	mu       sync.Mutex // guards the rest
	sessions map[sessionKey]*session
	stopped  bool
}

// sessionKey is who sends, and which of our addresses it sends to: replies leave
// from there.
type sessionKey struct {
	client netip.AddrPort
	local  netip.Addr
}

type session struct {
	cluster string
	where   Where
	up      net.Conn     // nil while it is dialled
	queue   chan []byte  // what comes meanwhile
	last    atomic.Int64 // when something moved, in unix nanoseconds
}

// queued is how many datagrams a session keeps while its backend is dialled.
const queued = 16

func (lp *livePort) openUDP() error {
	lp.mu.Lock()
	defer lp.mu.Unlock()
	if lp.udp != nil {
		return nil
	}
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(context.Background(), lp.bind.network("udp"), lp.bind.address())
	if err != nil {
		return bindError(lp.bind, "udp", err)
	}
	c := pc.(*net.UDPConn)
	raiseBuffers(c)
	if err := askDestination(c); err != nil {
		c.Close()
		return bindError(lp.bind, "udp", err)
	}
	u := &relayUDP{lp: lp, conn: c, sessions: make(map[sessionKey]*session)}
	if !lp.trackLocked(u) {
		c.Close()
		return net.ErrClosed
	}
	u.ctx, u.end = context.WithCancel(lp.srv.hard)
	lp.udp = u
	lp.srv.wg.Add(1)
	lp.acceptWG.Add(1)
	go u.readLoop()
	return nil
}

// stop ends the socket and its sessions: a datagram has no end to wait for.
func (u *relayUDP) stop() { u.Close() }

// Close ends the socket and everything on it. readLoop does the rest.
func (u *relayUDP) Close() error {
	u.end()
	return u.conn.Close()
}

// readLoop takes what clients send, and ends with the last session.
func (u *relayUDP) readLoop() {
	lp := u.lp
	defer lp.srv.wg.Done()
	defer lp.untrack(u)
	u.read()
	lp.acceptWG.Done()
	u.mu.Lock()
	u.stopped = true
	for _, s := range u.sessions {
		if s.up != nil {
			s.up.Close()
		}
	}
	u.mu.Unlock()
	u.wg.Wait()
}

func (u *relayUDP) read() {
	buf := make([]byte, maxDatagram)
	oob := make([]byte, oobSize)
	for {
		n, oobn, _, client, err := u.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // whatever it was, never spin
			case <-u.ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
			continue
		}
		u.datagram(sessionKey{client, destination(oob[:oobn])}, buf[:n])
	}
}

// datagram sends one on. It never waits.
func (u *relayUDP) datagram(key sessionKey, b []byte) {
	x := u.lp.index.Load()
	if x.stream == nil {
		return
	}
	r := x.stream.streamRoute()
	u.mu.Lock()
	s := u.sessions[key]
	if s != nil && !r.has(s.cluster) { // the route has left this backend
		delete(u.sessions, key)
		if s.up != nil {
			s.up.Close()
		}
		s = nil
	}
	if s == nil {
		s = u.beginLocked(x, r, key)
	}
	if s == nil {
		u.mu.Unlock()
		return
	}
	up := s.up
	if up == nil {
		select {
		case s.queue <- append([]byte(nil), b...):
		default: // as a full socket buffer would
		}
	}
	u.mu.Unlock()
	if up != nil {
		s.last.Store(time.Now().UnixNano())
		up.Write(b) // an error is the reader's to see
	}
}

// has says whether cluster is one of r's backends.
func (r *StreamRoute) has(cluster string) bool {
	if r == nil {
		return false
	}
	for _, b := range r.Backends {
		if b.Cluster == cluster && b.Weight > 0 {
			return true
		}
	}
	return false
}

// beginLocked makes a session for key, unless there are too many or no backend.
func (u *relayUDP) beginLocked(x *index, r *StreamRoute, key sessionKey) *session {
	s := u.lp.srv
	if u.stopped {
		return nil
	}
	if len(u.sessions) >= s.limits.Sessions {
		s.cfg.Events.refused(x.where[overUDP], RefusedSessions)
		return nil
	}
	b, ok := r.choose()
	if !ok {
		s.cfg.Events.refused(x.where[overUDP], RefusedNoBackend)
		return nil
	}
	ses := &session{cluster: b.Cluster, where: x.where[overUDP], queue: make(chan []byte, queued)}
	ses.last.Store(time.Now().UnixNano())
	u.sessions[key] = ses
	u.wg.Add(1)
	go u.serve(key, ses)
	return ses
}

// serve is the life of a session: dial, then carry replies until it is idle.
func (u *relayUDP) serve(key sessionKey, ses *session) {
	defer u.wg.Done()
	s := u.lp.srv
	s.cfg.Events.opened(ses.where)
	defer s.cfg.Events.closed(ses.where)
	defer func() {
		u.mu.Lock()
		if u.sessions[key] == ses {
			delete(u.sessions, key)
		}
		u.mu.Unlock()
	}()
	up, release, err := s.cfg.Backends.DialPacket(u.ctx, ses.cluster, key.client)
	if err != nil {
		s.cfg.Events.refused(ses.where, RefusedNoBackend)
		u.lp.complain("datagrams without a backend", "bind", u.lp.bind, "client", key.client, "cluster", ses.cluster, "error", err)
		return
	}
	defer release()
	defer up.Close()
	if !u.flush(ses, up) {
		return
	}
	u.replies(key, ses, up)
}

// flush sends what came during the dial, and lets readLoop write from then on.
func (u *relayUDP) flush(ses *session, up net.Conn) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped {
		return false
	}
	for {
		select {
		case b := <-ses.queue:
			up.Write(b)
			continue
		default:
		}
		break
	}
	ses.up = up
	return true
}

// replies carries what the backend sends, to that one client, until nothing has
// moved for a while. There is no more of it than the backend sends.
func (u *relayUDP) replies(key sessionKey, ses *session, up net.Conn) {
	idle := u.lp.srv.limits.SessionIdleTimeout
	oob := source(key.local)
	for {
		until := time.Unix(0, ses.last.Load()).Add(idle)
		up.SetReadDeadline(until)
		err := receive(up, func(b []byte) {
			ses.last.Store(time.Now().UnixNano())
			u.conn.WriteMsgUDPAddrPort(b, oob, key.client)
		})
		if err == nil {
			continue
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && time.Unix(0, ses.last.Load()).Add(idle).After(until) {
			continue // the client sent something meanwhile
		}
		return
	}
}
