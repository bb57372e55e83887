package h2

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/net/http2"
)

// reader takes the client's frames apart. DATA is passed on as far as it is there;
// of other frames the whole of one is waited for. All of it belongs to the goroutine
// of ServeConn.
type reader struct {
	c      *conn
	blocks blockReader
	abuse  abuse

	// nap is what an idle connection reads into: it has no other buffer.
	nap  [512]byte
	held *buffer // nil: nap
	buf  []byte
	r, n int // buf[r:n] is not parsed yet

	// The DATA frame being read.
	inData bool
	stream *stream // nil: bytes are thrown away
	left   int     // payload bytes to come
	pad    int     // padding bytes after them
	end    bool    // END_STREAM

	preface  int  // bytes of the preface to come
	settings bool // the client's first SETTINGS have come
}

// connWindow is the window of a connection. Its credit is returned when a quarter
// is used up.
const connWindow = 1 << 20

// readBuffer is how much is read at once from a connection that is busy.
const readBuffer = 64 << 10

func (r *reader) init(c *conn) {
	r.c = c
	r.buf = r.nap[:]
	r.preface = len(http2.ClientPreface)
	r.blocks.init(c.s.maxHeaderBytes(), c.s.maxHeaders())
	r.abuse.maxResets = c.s.maxResets()
}

// free gives back what a connection that has ended still holds.
func (r *reader) free() {
	putBuffer(r.held)
	r.held, r.buf = nil, nil
}

// loop reads until the connection is over. ahead was read already.
func (r *reader) loop(ahead []byte) error {
	if len(ahead) > len(r.buf) {
		r.room(len(ahead))
	}
	r.n = copy(r.buf, ahead)
	for {
		from := r.r
		if r.n > r.r {
			if err := r.parse(); err != nil {
				return err
			}
			r.c.flush()
		}
		r.tidy(r.r > from)
		n, err := r.c.c.Read(r.buf[r.n:])
		r.n += n
		if err != nil && n == 0 {
			return r.why(err)
		}
	}
}

// why tells why Read failed: the deadline says that the connection's end was asked
// for.
func (r *reader) why(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.Join(errClientGone, err)
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil:
		return c.err
	case c.ending != nil:
		return c.ending
	}
	var ne net.Error
	if errors.As(err, &ne) {
		return errors.Join(errClientGone, err)
	}
	return err
}

// tidy makes room for the next read, and lets the buffer go if the connection rests.
// progress says that some of what was there has been parsed.
func (r *reader) tidy(progress bool) {
	rest := r.n - r.r
	switch {
	case rest > 0 || r.inData || r.blocks.open:
		if r.r > 0 {
			r.n = copy(r.buf, r.buf[r.r:r.n])
			r.r = 0
		}
		if r.n == len(r.buf) || r.inData {
			r.room(readBuffer)
		}
	case r.held != nil && !r.busy():
		putBuffer(r.held)
		r.held, r.buf = nil, r.nap[:]
		r.r, r.n = 0, 0
	case r.held == nil && r.n == len(r.nap):
		r.r, r.n = 0, 0
		r.room(readBuffer) // more is there, most likely
	default:
		r.r, r.n = 0, 0
	}
	if progress && !r.blocks.open {
		r.c.partial.Store(0) // what is waited for now is another frame
	}
	if rest > 0 && !r.inData || r.blocks.open || r.preface > 0 {
		if r.c.partial.Load() == 0 {
			now := time.Now()
			r.c.partial.Store(max(int64(now.Sub(r.c.born)), 1))
			r.c.mu.Lock()
			r.c.watchLocked(now, r.c.s.readHeaderTimeout())
			r.c.mu.Unlock()
		}
	} else if r.c.partial.Load() != 0 {
		r.c.partial.Store(0)
	}
}

// busy says whether the client has streams under way.
func (r *reader) busy() bool {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	return r.c.held > 0
}

// room makes buf hold at least size bytes.
func (r *reader) room(size int) {
	if len(r.buf) >= size {
		return
	}
	b := getBuffer(size)
	r.n = copy(b.b, r.buf[r.r:r.n])
	r.r = 0
	putBuffer(r.held)
	r.held, r.buf = b, b.b
}

// parse takes apart what is in the buffer, up to a frame that is not whole.
func (r *reader) parse() error {
	for r.r < r.n {
		p := r.buf[r.r:r.n]
		if r.preface > 0 {
			want := http2.ClientPreface[len(http2.ClientPreface)-r.preface:]
			n := min(len(p), len(want))
			if string(p[:n]) != want[:n] {
				return connFailed(http2.ErrCodeProtocol, "not the preface of HTTP/2")
			}
			r.preface -= n
			r.r += n
			if r.preface == 0 {
				r.greet()
			}
			continue
		}
		if r.inData {
			r.data(p)
			continue
		}
		if len(p) < frameHeaderLen {
			return nil
		}
		length, typ := frameLength(p), p[3]
		switch {
		case length > maxFrame:
			return connFailed(http2.ErrCodeFrameSize, "frame larger than SETTINGS_MAX_FRAME_SIZE")
		case !r.settings && (typ != frameSettings || p[4]&flagAck != 0):
			return connFailed(http2.ErrCodeProtocol, "first frame is not SETTINGS")
		case r.blocks.open && (typ != frameContinuation || streamID(p[5:]) != r.blocks.b.id):
			return connFailed(http2.ErrCodeProtocol, "header block interrupted by another frame")
		case typ == frameData:
			if p[4]&flagPadded != 0 && length > 0 && len(p) == frameHeaderLen {
				return nil
			}
			if err := r.startData(p, length); err != nil {
				return err
			}
			continue
		case len(p) < frameHeaderLen+length:
			return nil
		}
		r.r += frameHeaderLen + length
		if err := r.control(typ, p[4], streamID(p[5:]), p[frameHeaderLen:frameHeaderLen+length]); err != nil {
			return err
		}
		if err := r.c.waitQueue(); err != nil {
			return err
		}
	}
	return nil
}

// greet sends our part of the preface: SETTINGS, and the connection's window.
func (r *reader) greet() {
	c := r.c
	settings := []http2.Setting{
		{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.s.maxStreams())},
		{ID: http2.SettingInitialWindowSize, Val: uint32(c.s.streamWindow())},
		{ID: http2.SettingMaxHeaderListSize, Val: uint32(c.s.maxHeaderBytes())},
		{ID: settingConnectProtocol, Val: 1},
		{ID: settingNoPriorities, Val: 1},
	}
	c.mu.Lock()
	c.w.out = appendSettings(c.w.out, settings...)
	c.w.out = appendWindowUpdate(c.w.out, 0, connWindow-defaultWindow)
	c.greeted = true
	if c.draining {
		c.announceLocked()
	}
	c.mu.Unlock()
}

// startData begins a DATA frame (RFC 9113 section 6.1).
func (r *reader) startData(p []byte, length int) error {
	id := streamID(p[5:])
	if id == 0 {
		return connFailed(http2.ErrCodeProtocol, "DATA on stream 0")
	}
	r.r += frameHeaderLen
	pad := 0
	if p[4]&flagPadded != 0 {
		if length == 0 {
			return connFailed(http2.ErrCodeFrameSize, "padded DATA without a pad length")
		}
		pad = int(p[frameHeaderLen]) + 1
		if pad > length {
			return connFailed(http2.ErrCodeProtocol, "DATA padding longer than its frame")
		}
		r.r++
	}
	r.left, r.pad = length-pad, max(pad-1, 0)
	r.end = p[4]&flagEndStream != 0
	r.inData = true
	if r.left == 0 && !r.end {
		if err := r.abuse.count(abuseEmptyData); err != nil {
			return err
		}
	}
	if err := r.dataStream(id, int64(length), int64(pad)); err != nil {
		return err
	}
	if r.left+r.pad == 0 {
		r.endData(nil)
	}
	return nil
}

// dataStream finds whom a DATA frame of n bytes is for, pad of them padding.
func (r *reader) dataStream(id uint32, n, pad int64) error {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.recvWindow {
		return connFailed(http2.ErrCodeFlowControl, "more DATA than the connection's window allows")
	}
	c.recvWindow -= n
	s := c.streams[id]
	r.stream = s
	if s == nil {
		c.owed += n
		return r.strayLocked(id)
	}
	if code := s.body.expectLocked(n, n-pad); code != http2.ErrCodeNo {
		r.stream = nil
		c.owed += n
		if err := r.abuse.count(abuseOther); err != nil {
			return err
		}
		c.resetLocked(s, code, errBroken)
		return nil
	}
	c.owed += pad
	s.body.returnLocked(pad)
	return nil
}

// strayLocked handles a frame of a stream that is no more, or never was.
func (r *reader) strayLocked(id uint32) error {
	c := r.c
	if id%2 == 0 || id > c.highest {
		return connFailed(http2.ErrCodeProtocol, "frame of a stream that was never opened")
	}
	if err := r.abuse.count(abuseCheap); err != nil {
		return err
	}
	if !c.resets.has(id) {
		c.w.out = appendRSTStream(c.w.out, id, http2.ErrCodeStreamClosed)
		c.resets.add(id)
	}
	return nil
}

// data passes on what of a DATA frame is in p.
func (r *reader) data(p []byte) {
	if r.left > 0 {
		n := min(r.left, len(p))
		r.left -= n
		r.r += n
		if r.left > 0 || r.pad > 0 {
			r.receive(p[:n], false)
			return
		}
		r.endData(p[:n])
		return
	}
	n := min(r.pad, len(p))
	r.pad -= n
	r.r += n
	if r.pad == 0 {
		r.endData(nil)
	}
}

func (r *reader) endData(p []byte) {
	r.receive(p, r.end)
	r.stream, r.inData = nil, false
}

// receive gives a stream a part of its body.
func (r *reader) receive(p []byte, end bool) {
	s := r.stream
	if s == nil || len(p) == 0 && !end {
		return
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.body.receiveLocked(p)
	if end {
		s.recvEndLocked()
	}
}
