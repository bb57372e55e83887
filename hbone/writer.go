package hbone

import (
	"runtime"
	"slices"
	"sync"

	"golang.org/x/net/http2"
)

// Sizes that shape the writer, in bytes.
const (
	// highWater is how much bulk DATA may wait for the wire, over all streams.
	highWater = 256 << 10
	// batchBytes is how much is written before the writer looks for small
	// frames again: what a small frame waits for, at most.
	batchBytes = 128 << 10
	// smallData is how long a quiet stream's DATA may be to go before bulk.
	smallData = 4 << 10
	// maxControl bounds frames that wait for a peer that does not read.
	maxControl = 1 << 20
	// tinyData is how long DATA may be to be copied next to other frames, into
	// one TLS record, rather than go in its own buffer.
	tinyData = 512
	// maxRounds is how many batches a stream's goroutine writes for others
	// before it hands the work to a goroutine made for it.
	maxRounds = 4
)

// writer puts the frames of one tunnel in order and writes them.
//
// Whoever has something to write and finds nobody writing becomes the writer
// and writes in its own goroutine, so that a lone message waits for no hand-off.
// Others leave their frames and go on. There are three lines: prio holds
// complete frames one after the other (control frames, and tiny DATA), small
// holds the buffers of quiet streams, one of each at most, and bulk all other
// buffers in the order in which they came. A batch is all of prio, then small,
// then bulk up to batchBytes.
//
// A stream asks for leave (reserve) before it reads from its source, so that it
// holds no buffer while it waits: for its own credit, the tunnel's credit, and,
// unless it is quiet, for room below highWater, in the order of asking.
type writer struct {
	c *conn

	mu      sync.Mutex
	idle    sync.Cond // busy became false
	busy    bool
	err     error
	prio    []byte
	spare   []byte // prio of the batch before
	gen     uint64 // batches begun
	turn    uint32 // stream that began to write last
	small   ring
	bulk    ring
	batch   []*buffer // the batch being written; the writer's own while busy
	room    int       // below highWater
	waiters []*Stream // for room, first come first served
	starved []*Stream // for the tunnel's credit
	credit  int64     // the tunnel's, from the peer
	initial int64     // the peer's SETTINGS_INITIAL_WINDOW_SIZE
	maxData int       // longest payload: the peer's SETTINGS_MAX_FRAME_SIZE, in whole records
}

func (w *writer) init(c *conn) {
	w.c = c
	w.idle.L = &w.mu
	w.gen = 1 // so that the zero prioGen of a new stream is in the past
	w.room = highWater
	w.credit = defaultWindow
	w.initial = defaultWindow
	w.maxData = payloadCap(classSmall)
}

// ring is a queue of buffers that reuses its array.
type ring struct {
	b    []*buffer
	head int
	n    int
}

func (r *ring) push(b *buffer) {
	if r.n == len(r.b) {
		grown := make([]*buffer, max(8, 2*len(r.b)))
		for i := range r.n {
			grown[i] = r.b[(r.head+i)%len(r.b)]
		}
		r.b, r.head = grown, 0
	}
	r.b[(r.head+r.n)%len(r.b)] = b
	r.n++
}

func (r *ring) pop() *buffer {
	b := r.b[r.head]
	r.b[r.head] = nil
	r.head = (r.head + 1) % len(r.b)
	r.n--
	return b
}

// reserveLocked takes leave to send up to want bytes of s. n is 0 when s has to
// wait first; it is then in the line for what it lacks and sendCond will be
// signalled. A quiet stream (one whose reads are small) does not wait for room.
func (w *writer) reserveLocked(s *Stream, want int, quiet bool) (n int, err error) {
	if err := s.sendErr; err != nil {
		w.leaveLocked(s)
		return 0, err
	}
	if w.credit <= 0 {
		w.returnRoomLocked(s)
		if !s.starved {
			s.starved = true
			w.starved = append(w.starved, s)
		}
		return 0, nil
	}
	if s.credit <= 0 {
		w.returnRoomLocked(s)
		return 0, nil // updateStream signals
	}
	want = min(want, w.maxData)
	if s.roomHeld == 0 && (!quiet || s.prioGen == w.gen || s.queued > 0) {
		if s.waiting {
			return 0, nil
		}
		if len(w.waiters) > 0 || w.room < want {
			s.waiting, s.roomWant = true, want
			w.waiters = append(w.waiters, s)
			return 0, nil
		}
		w.room -= want
		s.roomHeld = want
	}
	n = int(min(int64(want), s.credit, w.credit))
	s.credit -= int64(n)
	w.credit -= int64(n)
	return n, nil
}

// tryReserve is reserveLocked for a caller that must not block.
func (w *writer) tryReserve(s *Stream, want int, quiet bool) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reserveLocked(s, want, quiet)
}

// reserve waits for leave to send. deadline, when not nil, is asked at every
// wake-up.
func (w *writer) reserve(s *Stream, want int, quiet bool, deadline func() error) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		n, err := w.reserveLocked(s, want, quiet)
		if n > 0 || err != nil {
			return n, err
		}
		if deadline != nil {
			if err := deadline(); err != nil {
				w.leaveLocked(s)
				return 0, err
			}
		}
		s.sendCond.Wait()
	}
}

// refund gives back leave that was not used.
func (w *writer) refund(s *Stream, n int) {
	w.mu.Lock()
	s.credit += int64(n)
	w.creditLocked(int64(n))
	w.returnRoomLocked(s)
	w.mu.Unlock()
}

func (w *writer) returnRoomLocked(s *Stream) {
	if s.roomHeld > 0 {
		w.room += s.roomHeld
		s.roomHeld = 0
		w.grantLocked()
	}
}

// leaveLocked takes s, which will not send or not now, out of the lines and
// gives back what it was granted.
func (w *writer) leaveLocked(s *Stream) {
	if s.waiting {
		s.waiting = false
		if i := slices.Index(w.waiters, s); i >= 0 {
			w.waiters = slices.Delete(w.waiters, i, i+1)
		}
	}
	if s.starved {
		s.starved = false
		if i := slices.Index(w.starved, s); i >= 0 {
			w.starved = slices.Delete(w.starved, i, i+1)
		}
	}
	w.returnRoomLocked(s)
}

// grantLocked gives room to those who wait for it.
func (w *writer) grantLocked() {
	for len(w.waiters) > 0 {
		s := w.waiters[0]
		if w.room < s.roomWant {
			return
		}
		w.room -= s.roomWant
		s.roomHeld = s.roomWant
		s.waiting = false
		w.waiters[0] = nil
		w.waiters = w.waiters[1:]
		s.sendCond.Signal()
	}
	w.waiters = nil
}

// creditLocked adds to the tunnel's credit and wakes those who wait for it.
func (w *writer) creditLocked(n int64) {
	w.credit += n
	if w.credit <= 0 || len(w.starved) == 0 {
		return
	}
	for _, s := range w.starved {
		s.starved = false
		s.sendCond.Signal()
	}
	clear(w.starved)
	w.starved = w.starved[:0]
}

// data queues a filled buffer of s, of which reserved bytes had been granted,
// and takes the buffer over. It may write, its own and others' frames.
func (w *writer) data(s *Stream, b *buffer, reserved int) error {
	w.mu.Lock()
	if unused := int64(reserved - b.n); unused > 0 {
		s.credit += unused
		w.creditLocked(unused)
	}
	if err := s.sendErr; err != nil {
		w.creditLocked(int64(b.n))
		w.returnRoomLocked(s)
		w.mu.Unlock()
		putBuffer(b)
		return err
	}
	if b.end {
		s.endQueued = true
	}
	first := s.queued == 0 // nothing of the stream is in small or bulk
	if first && (b.n == 0 || b.n <= tinyData && s.prioGen != w.gen) {
		w.prio = append(w.frames(), b.frame(s.id)...)
		if b.n > 0 {
			s.prioGen = w.gen
		}
		w.returnRoomLocked(s)
		putBuffer(b)
	} else {
		w.room += s.roomHeld - b.n // a stream that was quiet may overdraw, by one buffer
		s.roomHeld = 0
		s.queued++
		b.s = s
		if first && b.n <= smallData && s.prioGen != w.gen {
			w.small.push(b)
		} else {
			w.bulk.push(b)
		}
		w.grantLocked()
	}
	w.writeOrLeaveLocked(s)
	return nil
}

// control queues frames that add appends to prio, and writes them unless
// somebody is writing. The reader of a tunnel must not use it: were both ends'
// readers to wait for the other to read, neither would.
func (w *writer) control(add func([]byte) []byte) {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.prio = add(w.frames())
	w.writeOrLeaveLocked(nil)
}

// later queues control frames without writing: the reader's way. flush follows.
func (w *writer) later(add func([]byte) []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	w.prio = add(w.frames())
	return w.overdueLocked()
}

// overdue says whether the peer has left too many of our frames unread. The
// reader asks before it takes on work that will be answered.
func (w *writer) overdue() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.overdueLocked()
}

func (w *writer) overdueLocked() error {
	if len(w.prio) > maxControl {
		return connError{http2.ErrCodeEnhanceYourCalm, "peer makes us answer and does not read the answers"}
	}
	return nil
}

// flush has what later left written, without waiting for the peer: what the
// socket does not take at once is left to a goroutine made for it.
func (w *writer) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.busy || w.emptyLocked() {
		return
	}
	w.busy = true
	if w.small.n > 0 || w.bulk.n > 0 || len(w.prio) > recordSize || w.c.wire.raw == nil {
		w.c.wg.Go(w.writeForOthers)
		return
	}
	prio := w.beginLocked()
	w.mu.Unlock()
	done, err := w.c.tryWrite(prio)
	w.mu.Lock()
	w.finishLocked(prio, err)
	switch {
	case !done && w.err == nil:
		w.c.wg.Go(w.completeWrite)
	case w.emptyLocked():
		w.restLocked()
	default:
		w.c.wg.Go(w.writeForOthers)
	}
}

// completeWrite is the body of the goroutine that ends what flush began.
func (w *writer) completeWrite() {
	err := w.c.wire.flush()
	w.mu.Lock()
	w.finishLocked(nil, err)
	w.mu.Unlock()
	w.write(-1)
}

// writeOrLeaveLocked writes what is queued unless somebody does. s is the stream
// whose frames were the last, nil for the tunnel's own. It unlocks mu.
func (w *writer) writeOrLeaveLocked(s *Stream) {
	if w.busy || w.err != nil {
		w.mu.Unlock()
		return
	}
	w.busy = true
	// Where streams take turns, whoever else is ready to run may have something
	// small, too, and its frames cost less next to ours than in a record and a
	// write of their own. A stream that is alone would wait for nothing.
	yield := false
	if s != nil {
		yield = s.id != w.turn && w.bulk.n == 0
		w.turn = s.id
	}
	w.mu.Unlock()
	if yield {
		runtime.Gosched()
	}
	w.write(maxRounds)
}

// writeForOthers is the body of the goroutine that takes the work over from a
// stream that has written enough for others.
func (w *writer) writeForOthers() { w.write(-1) }

// write writes batches until nothing is left. The caller has set busy. After
// rounds batches (never, if negative) it leaves the rest to a new goroutine.
func (w *writer) write(rounds int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ; !w.emptyLocked(); rounds-- {
		if rounds == 0 {
			w.c.wg.Go(w.writeForOthers)
			return
		}
		prio := w.beginLocked()
		w.takeBatchLocked()
		w.mu.Unlock()
		err := w.c.writeBatch(prio, w.batch)
		w.mu.Lock()
		w.finishLocked(prio, err)
	}
	w.restLocked()
}

func (w *writer) emptyLocked() bool {
	return w.err != nil || len(w.prio) == 0 && w.small.n == 0 && w.bulk.n == 0
}

// framesPool holds what prio is made of; an idle tunnel has none.
var framesPool = slicePool{size: recordSize}

// frames is prio, with memory to append to.
func (w *writer) frames() []byte {
	if w.prio == nil {
		w.prio = framesPool.get()
	}
	return w.prio
}

func releaseFrames(b []byte) {
	if cap(b) >= recordSize && cap(b) <= 4*recordSize {
		framesPool.put(b)
	}
}

// beginLocked begins a batch and returns its small frames.
func (w *writer) beginLocked() (prio []byte) {
	prio = w.prio
	w.prio, w.spare = w.spare, nil
	w.gen++
	return prio
}

// finishLocked ends a batch. It gives mu up for a moment if the write failed.
func (w *writer) finishLocked(prio []byte, err error) {
	if prio != nil {
		w.spare = prio[:0]
	}
	for i, b := range w.batch {
		w.doneLocked(b)
		w.batch[i] = nil
	}
	w.batch = w.batch[:0]
	w.grantLocked()
	if err != nil && w.err == nil {
		w.err = err
		w.mu.Unlock()
		w.c.fail(err)
		w.mu.Lock()
	}
}

// restLocked ends the writing, and gives back what an idle tunnel need not hold.
func (w *writer) restLocked() {
	w.busy = false
	if w.err != nil {
		w.small, w.bulk = ring{}, ring{}
	}
	if len(w.prio) == 0 {
		releaseFrames(w.prio)
		w.prio = nil
	}
	releaseFrames(w.spare)
	w.spare = nil
	w.idle.Broadcast()
}

// takeBatchLocked moves small, then bulk, into batch, without the frames of
// streams that were reset: DATA after RST_STREAM is an error (RFC 9113 section 5.1).
func (w *writer) takeBatchLocked() {
	for size := 0; size < batchBytes; {
		from := &w.small
		if from.n == 0 {
			from = &w.bulk
		}
		if from.n == 0 {
			return
		}
		b := from.pop()
		if b.s.resetSent {
			w.creditLocked(int64(b.n))
			w.doneLocked(b)
			continue
		}
		size += b.n
		w.batch = append(w.batch, b)
	}
}

func (w *writer) doneLocked(b *buffer) {
	b.s.queued--
	w.room += b.n
	putBuffer(b)
}

// updateStream adds to the credit of s. It reports whether the peer went over
// the limit (RFC 9113 section 6.9.1).
func (w *writer) updateStream(s *Stream, n int64) (overflow bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.credit += n; s.credit > maxWindow {
		return true
	}
	if s.credit > 0 {
		s.sendCond.Signal()
	}
	return false
}

// updateTunnel adds to the credit of the tunnel.
func (w *writer) updateTunnel(n int64) (overflow bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.credit+n > maxWindow {
		return true
	}
	w.creditLocked(n)
	return false
}

// endSend ends the sending side of s with err, unless it has ended.
func (w *writer) endSend(s *Stream, err error) {
	w.mu.Lock()
	w.endSendLocked(s, err)
	w.mu.Unlock()
}

func (w *writer) endSendLocked(s *Stream, err error) {
	if s.sendErr == nil {
		s.sendErr = err
	}
	w.leaveLocked(s)
	s.sendCond.Broadcast()
}

// fail ends all writing with err.
func (w *writer) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
}

// waitIdle waits until nobody writes. The connection's write deadline bounds it.
func (w *writer) waitIdle() {
	w.mu.Lock()
	for w.busy {
		w.idle.Wait()
	}
	w.mu.Unlock()
}

// backlog is how many bytes of bulk wait for the wire, or for a source that has
// been given leave to send them.
func (w *writer) backlog() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return highWater - w.room
}
