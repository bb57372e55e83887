package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// conn is one tunnel, at either end.
//
// Locks, in the order in which they may nest: conn.mu, Stream.mu, writer.mu.
// None is held across I/O.
type conn struct {
	opt    options
	client bool
	log    *slog.Logger
	wire   *wire
	tls    *tls.Conn
	state  tls.ConnectionState
	w      writer
	in     reader
	abuse  abuse

	// serve runs one accepted stream (server only); it is called in a
	// goroutine of its own.
	serve func(*Stream)
	// changed, when set, is told that streams ended or the tunnel began to
	// drain or closed (client only). It must not block.
	changed func()

	ctx    context.Context // ends with the tunnel
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the tunnel but the one in run
	gone   chan struct{}  // closed when the tunnel has failed or closed
	done   chan struct{}  // closed when its goroutines have ended, too

	ready     chan struct{} // closed when the peer's first SETTINGS has come
	readyOnce sync.Once

	born     time.Time
	maxAge   time.Duration // 0 = none
	lastSeen atomic.Int64  // of any frame, nanoseconds since born
	rtt      atomic.Int64  // of the last PING, nanoseconds; 0 = unknown
	moved    atomic.Int64  // bytes in both directions

	mu         sync.Mutex
	streams    map[uint32]*Stream
	nextID     uint32 // client: of the next stream
	load       load   // client
	served     bool   // client: the peer has answered a stream
	lastID     uint32 // server: highest taken
	working    int    // server: streams whose handler runs
	maxStreams uint32 // client: the peer's limit
	draining   bool   // no new streams: GOAWAY sent or received, or too old
	goAwaySent bool
	goAwayAt   time.Time
	finalSent  bool // GOAWAY with the true last stream id
	closing    bool // close was started because the tunnel is drained
	err        error
	idleSince  time.Time
	tick       *time.Timer
	pingSent   time.Time // zero = none outstanding

	allRead chan struct{} // one-slot edge: the peer has answered lastPing
}

// newConn makes a tunnel of a TLS connection whose handshake is done.
func newConn(w *wire, tc *tls.Conn, client bool, opt options, log *slog.Logger) *conn {
	c := &conn{
		opt: opt, client: client, log: log, wire: w, tls: tc, state: tc.ConnectionState(),
		gone: make(chan struct{}), done: make(chan struct{}), ready: make(chan struct{}), born: time.Now(),
		allRead: make(chan struct{}, 1),
		streams: make(map[uint32]*Stream), nextID: 1, maxStreams: opt.maxStreams,
	}
	c.idleSince = c.born
	c.maxAge = opt.maxAge
	// A tunnel takes no new streams once its peer's certificate has expired.
	if len(c.state.PeerCertificates) > 0 {
		left := time.Until(c.state.PeerCertificates[0].NotAfter)
		if c.maxAge == 0 || left < c.maxAge {
			c.maxAge = max(left, time.Nanosecond)
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.w.init(c)
	c.in.init(c)
	c.wire.polled = true
	return c
}

// run reads the tunnel until it has ended and everything that worked for it has
// returned. hello comes first.
func (c *conn) run() {
	defer close(c.done)
	c.read()
	<-c.gone // from here on nothing starts that wg would have to wait for
	c.wg.Wait()
}

// hello sends the frames that open a tunnel. Nobody else knows the tunnel yet, so
// that nothing comes before them, a GOAWAY least of all.
func (c *conn) hello() {
	first := make([]byte, 0, 128)
	if c.client {
		first = append(first, http2.ClientPreface...)
		first = appendSettings(first,
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(c.opt.streamWindow)},
			http2.Setting{ID: http2.SettingMaxFrameSize, Val: uint32(c.opt.maxFrame)},
			http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.opt.maxHeader)})
	} else {
		first = appendSettings(first,
			http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: c.opt.maxStreams},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(c.opt.streamWindow)},
			http2.Setting{ID: http2.SettingMaxFrameSize, Val: uint32(c.opt.maxFrame)},
			http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.opt.maxHeader)})
	}
	first = appendWindowUpdate(first, 0, c.opt.tunnelWindow-defaultWindow)
	c.w.mu.Lock()
	c.w.prio = append(c.w.frames(), first...)
	c.w.mu.Unlock()
	c.mu.Lock()
	c.scheduleLocked()
	c.mu.Unlock()
	c.w.flush()
}

// writeBatch writes control frames, then bulk, in as few system calls as the
// records allow. Only the writer calls it.
func (c *conn) writeBatch(prio []byte, batch []*buffer) error {
	merge := len(batch) > 1 || len(batch) == 1 && (len(prio) > 0 || batch[0].n > recordSize) || len(prio) > recordSize
	if merge {
		c.wire.merge()
	}
	var err error
	if len(prio) > 0 {
		_, err = c.tls.Write(prio)
	}
	n := len(prio)
	for _, b := range batch {
		n += b.n
		if err == nil {
			_, err = c.tls.Write(b.frame(b.s.id))
		}
	}
	c.moved.Add(int64(n))
	if merge {
		if ferr := c.wire.flush(); err == nil {
			err = ferr
		}
	}
	return err
}

// tryWrite writes control frames, at most a record of them, as far as the socket
// takes them at once. If not done, wire.flush writes the rest.
func (c *conn) tryWrite(prio []byte) (done bool, err error) {
	c.wire.merge()
	if _, err := c.tls.Write(prio); err != nil {
		return true, err
	}
	c.moved.Add(int64(len(prio)))
	return c.wire.tryFlush()
}

// read reads the tunnel until it ends, and says farewell where the peer has
// broken the protocol.
func (c *conn) read() {
	err := c.in.loop()
	var ce connError
	if errors.As(err, &ce) {
		c.farewell(ce)
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("hbone: peer %s closed the tunnel: %w", c.wire.RemoteAddr(), io.ErrUnexpectedEOF)
	}
	c.fail(err)
	c.in.close()
}

// farewell tells the peer why the tunnel ends and gives it a moment to read it:
// closing a socket with bytes unread would reset it and lose the GOAWAY.
func (c *conn) farewell(ce connError) {
	c.log.Debug("tunnel ended by a connection error", "peer", c.wire.RemoteAddr(), "code", ce.Code.String(), "reason", ce.Reason)
	c.wire.SetDeadline(time.Now().Add(lastWords))
	c.mu.Lock()
	last := c.lastID
	c.draining = true
	c.mu.Unlock()
	c.w.control(func(b []byte) []byte { return appendGoAway(b, last, ce.Code, ce.Reason) })
	c.w.waitIdle()
	c.tls.CloseWrite()
	if t, ok := c.wire.Conn.(interface{ CloseWrite() error }); ok {
		t.CloseWrite()
		c.wire.polled = false
		io.CopyN(io.Discard, c.wire, maxControl)
	}
}

// fail ends the tunnel: every stream ends with err, the connection is closed.
// It is idempotent and does not wait for the tunnel's goroutines.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	c.draining = true
	streams := make([]*Stream, 0, len(c.streams))
	for _, s := range c.streams {
		streams = append(streams, s)
	}
	clear(c.streams)
	if c.tick != nil {
		c.tick.Stop()
	}
	c.mu.Unlock()

	c.w.fail(err)
	close(c.gone)
	c.cancel()
	// Unblocks the reader and the writer. close_notify would have to wait for both.
	c.wire.Conn.Close()
	for _, s := range streams {
		s.abort(err)
	}
	if c.changed != nil {
		c.changed()
	}
}

// close ends an idle or forced tunnel; streams that are left are told by
// RST_STREAM and GOAWAY as far as the peer reads them.
func (c *conn) close() {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.draining = true
	last := c.lastID
	ids := make([]uint32, 0, len(c.streams))
	for id := range c.streams {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	c.wire.SetWriteDeadline(time.Now().Add(lastWords))
	c.w.control(func(b []byte) []byte {
		for _, id := range ids {
			b = appendRSTStream(b, id, http2.ErrCodeCancel)
		}
		return appendGoAway(b, last, http2.ErrCodeNo, "")
	})
	c.w.waitIdle()
	c.tls.CloseWrite()
	c.fail(ErrTunnelClosed)
}

// open starts a stream: the client's CONNECT goes out, the answer is not awaited.
func (c *conn) open(r *Request) (*Stream, error) {
	block := appendConnect(make([]byte, 0, 256), r)
	s := newStream(c)
	s.req = *r
	c.mu.Lock()
	if c.err != nil || c.draining || uint32(len(c.streams)) >= c.maxStreams {
		c.mu.Unlock()
		return nil, errTunnelFull
	}
	s.id = c.nextID
	c.nextID += 2
	if c.nextID > maxStreamID-2 {
		c.draining = true
	}
	c.streams[s.id] = s
	c.load.opened(time.Now())
	// Ids must grow on the wire: taking one and taking a place in the line are one step.
	c.w.mu.Lock()
	s.credit = c.w.initial
	c.w.prio = appendHeaders(c.w.frames(), s.id, block, false)
	c.mu.Unlock()
	c.w.writeOrLeaveLocked(s)
	return s, nil
}

// errTunnelFull makes the pool look for another tunnel.
var errTunnelFull = errors.New("hbone: tunnel takes no more streams")

// remove forgets a stream that has ended in both directions.
func (c *conn) remove(s *Stream) {
	c.mu.Lock()
	if c.streams[s.id] == s {
		delete(c.streams, s.id)
	}
	if len(c.streams) == 0 {
		c.idleSince = time.Now()
	}
	c.closeIfDoneLocked()
	c.mu.Unlock()
	if c.changed != nil {
		c.changed()
	}
}
