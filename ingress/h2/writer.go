package h2

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Sizes that shape the writer, in bytes.
const (
	// batchBytes is how much is written at once: four TLS records, and a buffer.
	batchBytes = 64 << 10
	// quantum is how much DATA a stream sends before the next one's turn: with its
	// header it fills a TLS record.
	quantum = maxFrame - frameHeaderLen
	// leastRoom is what has to be left of a batch for another frame of DATA.
	leastRoom = 1 << 10
	// maxQueue is how much may wait besides DATA before the client is not read any
	// more: whoever does not read our answers cannot ask for others.
	maxQueue = 128 << 10
	// maxRounds is how many batches a handler's goroutine writes for others before
	// it hands the work to a goroutine made for it.
	maxRounds = 4
)

// defaultUrgency is that of RFC 9218 section 4.1; 0 goes first, and 7 last.
const defaultUrgency = 3

// writer puts the frames of a connection in order and writes them.
//
// Whoever has something to write and finds nobody writing becomes the writer, and
// writes in its own goroutine. Others leave their frames and go on, or wait for
// their DATA to be taken. A batch is all complete frames that wait (out), and then
// DATA of the streams that have some and may send it, a frame of each in turn, the
// most urgent ones first. conn.mu guards all of it, and is not held in a write.
type writer struct {
	c    *conn
	enc  encoder
	idle sync.Cond // busy became false

	queueSpace sync.Cond // out became short, or the connection is over
	waiting    bool      // somebody waits for that

	busy      bool
	lastWords bool    // the write deadline is sayGoodbye's
	out       []byte  // complete frames
	room      *buffer // that out lies in, unless it has outgrown it

	ready   [8]line // by urgency: streams that have DATA and a window
	nready  int
	window  int64     // of the connection, from the client
	initial int64     // SETTINGS_INITIAL_WINDOW_SIZE of the client
	since   time.Time // when streams began to wait for window; zero: none does

	deadline time.Time // of the connection's writes
}

// line is a queue of streams.
type line struct{ first, last *sending }

func (l *line) push(s *sending) {
	s.next = nil
	if l.first == nil {
		l.first, l.last = s, s
		return
	}
	l.last.next, l.last = s, s
}

func (l *line) pop() *sending {
	s := l.first
	l.first, s.next = s.next, nil
	return s
}

func (w *writer) init(c *conn) {
	w.c = c
	w.idle.L, w.queueSpace.L = &c.mu, &c.mu
	w.window, w.initial = defaultWindow, defaultWindow
	w.enc.init()
}

// workLocked says whether there is anything that can be written.
func (w *writer) workLocked() bool {
	return len(w.out) > 0 || w.nready > 0 && w.window > 0
}

// growLocked makes room for n bytes more in out.
func (w *writer) growLocked(n int) {
	if cap(w.out)-len(w.out) >= n {
		return
	}
	least := 4 << 10
	if n > least {
		least = batchBytes // more is to follow
	}
	b := getBuffer(max(least, len(w.out)+n))
	w.out = append(b.b[:0], w.out...)
	putBuffer(w.room)
	w.room = b
}

// headersLocked queues a header block. f is not kept.
func (w *writer) headersLocked(id uint32, status int, f *fields, end bool) {
	w.growLocked(frameHeaderLen + 16 + f.size)
	start := len(w.out)
	b := append(w.out, make([]byte, frameHeaderLen)...)
	b = w.enc.begin(b)
	if status != 0 {
		b = w.enc.status(b, status)
	}
	for i := range f.list {
		b = w.enc.one(b, f.list[i].fieldName, f.list[i].value)
	}
	w.out = finishHeaders(b, start, id, end)
}

// enqueueLocked lines a stream up whose DATA can go.
func (w *writer) enqueueLocked(s *sending) {
	if s.queued {
		return
	}
	s.queued = true
	w.ready[s.urgency].push(s)
	w.nready++
}

// batchLocked takes what is to be written next. It is empty if there is nothing.
func (w *writer) batchLocked() ([]byte, *buffer) {
	for urgency := range w.ready {
		l := &w.ready[urgency]
		for l.first != nil && len(w.out)+leastRoom <= batchBytes {
			s := l.first
			if s.s.gone || s.ended {
				w.dropLocked(l)
				continue
			}
			if w.window <= 0 && s.pending() > 0 {
				if w.since.IsZero() {
					w.since = time.Now()
					w.c.watchLocked(w.since, w.c.s.writeTimeout())
				}
				return w.takeLocked()
			}
			w.dropLocked(l)
			s.frameLocked()
		}
	}
	return w.takeLocked()
}

func (w *writer) dropLocked(l *line) {
	l.pop().queued = false
	w.nready--
}

func (w *writer) takeLocked() ([]byte, *buffer) {
	b, room := w.out, w.room
	w.out, w.room = nil, nil
	if w.waiting {
		w.waiting = false
		w.queueSpace.Broadcast()
	}
	return b, room
}

// writeLocked makes the caller the writer until nothing is left, or enough has been
// written for others. own is the caller's stream, nil if it has none. It gives mu up
// for each write.
func (w *writer) writeLocked(own *sending) {
	c := w.c
	w.busy = true
	if own != nil && c.held > 1 {
		// Whoever else is ready to run may have something to send, too, and its
		// frames cost less next to ours than in a record and a write of their own.
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	for rounds := 0; c.err == nil; rounds++ {
		if own != nil && rounds >= maxRounds && own.pending() == 0 && w.workLocked() {
			c.wg.Add(1)
			go c.writeOn()
			return
		}
		b, room := w.batchLocked()
		if len(b) == 0 {
			putBuffer(room)
			break
		}
		c.mu.Unlock()
		err := w.write(b)
		putBuffer(room)
		c.mu.Lock()
		if err != nil {
			c.failLocked(err)
		}
	}
	w.busy = false
	w.idle.Broadcast()
}

// writeOn is the body of a goroutine that writes what others have left.
func (c *conn) writeOn() {
	defer c.wg.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w.writeLocked(nil)
}

// write writes a batch. Only the writer calls it. Setting a deadline costs a lock
// and a timer: it is moved when it would come a sixteenth too early.
func (w *writer) write(b []byte) error {
	if !w.lastWords {
		timeout := w.c.s.writeTimeout()
		now := time.Now()
		if left := w.deadline.Sub(now); left < timeout-timeout/16 {
			w.deadline = now.Add(timeout)
			w.c.c.SetWriteDeadline(w.deadline)
		}
	}
	_, err := w.c.c.Write(b)
	return err
}

// flush has what is queued written, by a goroutine made for it: the reader must not
// wait for the client to read, which may wait for us to read.
func (c *conn) flush() {
	c.mu.Lock()
	c.returnCreditLocked()
	c.flushLocked()
	c.mu.Unlock()
}

func (c *conn) flushLocked() {
	if c.w.busy || c.err != nil || !c.w.workLocked() {
		return
	}
	c.w.busy = true
	c.wg.Add(1)
	go c.writeOn()
}

// returnCreditLocked gives back credit of the connection, in steps.
func (c *conn) returnCreditLocked() {
	if c.owed < connWindow/4 {
		return
	}
	c.w.out = appendWindowUpdate(c.w.out, 0, c.owed)
	c.recvWindow += c.owed
	c.owed = 0
}

// waitQueue keeps the reader from taking on more while the client leaves too much
// unread.
func (c *conn) waitQueue() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && len(c.w.out) > maxQueue {
		c.flushLocked()
		c.w.waiting = true
		c.w.queueSpace.Wait()
	}
	return c.err
}

// setInitialLocked heeds SETTINGS_INITIAL_WINDOW_SIZE, for the streams there are,
// too (RFC 9113 section 6.9.2).
func (w *writer) setInitialLocked(v int64) error {
	d := v - w.initial
	w.initial = v
	for _, s := range w.c.streams {
		if s.send.window+d > maxWindow {
			return connFailed(http2.ErrCodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE makes a window exceed 2^31-1")
		}
		s.send.widenLocked(d)
	}
	return nil
}
