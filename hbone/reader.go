package hbone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"golang.org/x/net/http2"
)

// reader takes a tunnel's frames apart. DATA is handed on where it lies, in the
// buffer that TLS decrypted it into; header blocks go through blockReader and
// every other frame through http2.Framer, whole. All of it belongs to the
// goroutine that runs loop.
type reader struct {
	c      *conn
	framer *http2.Framer
	feed   bytes.Reader // what framer reads: one frame
	blocks blockReader

	plain *buffer // decrypted bytes; nil when none are held
	r, n  int     // plain.b[r:n] is not yet parsed

	// The DATA frame being read.
	stream  *Stream // nil: bytes are thrown away
	left    int     // payload bytes to come
	pad     int     // padding bytes after them
	end     bool    // END_STREAM
	inFrame bool

	preface int    // server: bytes of the client preface to come
	first   bool   // the peer's first SETTINGS has come
	highest uint32 // server: of the streams that the peer has opened, those we refused for GOAWAY included
	window  int64  // connection credit that the peer has
	owed    int64  // connection credit to return
	last    *Stream
}

// maxControlFrame bounds a frame that is not DATA, and a header block with its
// CONTINUATION frames, in bytes: both have to lie in the read buffer whole. It
// is a header list of the default limit, with room for frame headers.
const maxControlFrame = 72 << 10

func (r *reader) init(c *conn) {
	r.c = c
	r.window = c.opt.tunnelWindow
	if !c.client {
		r.preface = len(http2.ClientPreface)
	}
	r.framer = http2.NewFramer(io.Discard, &r.feed)
	r.framer.SetReuseFrames()
	r.framer.SetMaxReadFrameSize(maxControlFrame)
	r.blocks.init(c.opt.maxHeader)
}

// loop reads until the tunnel ends.
func (r *reader) loop() error {
	for {
		if err := r.decrypt(); err != nil {
			return err
		}
		if err := r.c.wire.fill(); err != nil {
			return err
		}
	}
}

// close gives back what a tunnel that has ended still holds.
func (r *reader) close() {
	if r.plain != nil {
		putBuffer(r.plain)
		r.plain = nil
	}
	r.c.wire.release()
}

// decrypt handles every record at hand. Bytes are collected as far as the
// buffer goes before they are parsed, so that a stream's destination gets one
// large write rather than one for each record.
func (r *reader) decrypt() error {
	for {
		if r.plain == nil {
			r.plain = getBuffer(classLarge)
			r.r, r.n = 0, 0
		}
		var err error
		more := true
		for err == nil && more && len(r.plain.b)-r.n >= recordSize {
			var n int
			n, err = r.c.tls.Read(r.plain.b[r.n:])
			r.n += n
			r.c.moved.Add(int64(n))
			more = r.c.wire.took()
		}
		if r.n > r.r {
			r.c.lastSeen.Store(int64(time.Since(r.c.born)))
			if perr := r.parse(); perr != nil {
				return perr
			}
			r.returnCredit(false)
			r.c.w.flush()
		}
		if r.r == r.n {
			putBuffer(r.plain)
			r.plain = nil
		} else if r.r > 0 {
			r.n = copy(r.plain.b, r.plain.b[r.r:r.n])
			r.r = 0
		}
		r.makeRoom()
		if !more || errors.Is(err, errNothingAtHand) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// makeRoom moves a header block that outgrows the buffer into a larger one.
func (r *reader) makeRoom() {
	if r.plain == nil || len(r.plain.b)-r.n >= recordSize {
		return
	}
	large := &buffer{b: make([]byte, maxControlFrame+2*recordSize), class: classUnpooled}
	copy(large.b, r.plain.b[:r.n])
	putBuffer(r.plain)
	r.plain = large
}

// parse takes apart what is in the buffer, up to a frame that is not whole.
func (r *reader) parse() error {
	for r.r < r.n {
		p := r.plain.b[r.r:r.n]
		if r.preface > 0 {
			want := http2.ClientPreface[len(http2.ClientPreface)-r.preface:]
			n := min(len(p), len(want))
			if string(p[:n]) != want[:n] {
				return connError{http2.ErrCodeProtocol, "not an HTTP/2 client: bad preface"}
			}
			r.preface -= n
			r.r += n
			continue
		}
		if r.inFrame {
			r.data(p)
			continue
		}
		if len(p) < frameHeaderLen {
			return nil
		}
		length := int(p[0])<<16 | int(p[1])<<8 | int(p[2])
		if length > r.c.opt.maxFrame {
			return connError{http2.ErrCodeFrameSize, "frame larger than SETTINGS_MAX_FRAME_SIZE"}
		}
		if !r.first && p[3] != frameSettings {
			return connError{http2.ErrCodeProtocol, "first frame is not SETTINGS"}
		}
		if p[3] == frameData {
			if p[4]&flagPadded != 0 && length > 0 && len(p) == frameHeaderLen {
				return nil
			}
			if err := r.startData(p, length); err != nil {
				return err
			}
			continue
		}
		whole, err := r.wholeFrame(p)
		if err != nil || whole == 0 {
			return err
		}
		if err := r.control(p[:whole]); err != nil {
			return err
		}
		r.r += whole
	}
	return nil
}

// wholeFrame is how many bytes the frame at p takes, with its CONTINUATION
// frames if it opens a header block; 0 when they are not all there.
func (r *reader) wholeFrame(p []byte) (int, error) {
	block := p[3] == frameHeaders
	for at, continued := 0, 0; ; continued++ {
		if len(p)-at < frameHeaderLen {
			return 0, nil
		}
		h := p[at:]
		if at > 0 {
			if h[3] != frameContinuation {
				return 0, connError{http2.ErrCodeProtocol, "header block interrupted by another frame"}
			}
			if continued > maxContinuations {
				return 0, connError{http2.ErrCodeEnhanceYourCalm, "too many CONTINUATION"}
			}
		}
		length := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		if at+frameHeaderLen+length > maxControlFrame {
			return 0, connError{http2.ErrCodeEnhanceYourCalm, "header block or control frame too large"}
		}
		if len(h) < frameHeaderLen+length {
			return 0, nil
		}
		at += frameHeaderLen + length
		if !block || h[4]&flagEndHeaders != 0 {
			return at, nil
		}
	}
}

// startData begins a DATA frame (RFC 9113 section 6.1).
func (r *reader) startData(p []byte, length int) error {
	id := binary.BigEndian.Uint32(p[5:]) & maxStreamID
	if id == 0 {
		return connError{http2.ErrCodeProtocol, "DATA on stream 0"}
	}
	r.r += frameHeaderLen
	pad := 0
	if p[4]&flagPadded != 0 {
		if length == 0 {
			return connError{http2.ErrCodeFrameSize, "padded DATA without a pad length"}
		}
		pad = int(p[frameHeaderLen]) + 1
		if pad > length {
			return connError{http2.ErrCodeProtocol, "DATA padding longer than its frame"}
		}
		r.r++
	}
	if int64(length) > r.window {
		return connError{http2.ErrCodeFlowControl, "more DATA than the connection window allows"}
	}
	r.window -= int64(length)
	r.owed += int64(length)
	r.left, r.pad = length-pad, max(pad-1, 0)
	r.end = p[4]&flagEndStream != 0
	r.inFrame = true
	if r.left == 0 && !r.end {
		if err := r.c.abuse.count(abuseEmptyData); err != nil {
			return err
		}
	}
	s, err := r.lookup(id)
	if err != nil {
		return err
	}
	r.stream = s
	if s != nil {
		if code := s.startData(int64(length)); code != 0 {
			r.stream = nil
			if err := r.resetStream(s, id, code); err != nil {
				return err
			}
		} else if pad > 0 {
			s.returnPadding(int64(pad))
		}
	} else if err := r.closedStream(id); err != nil {
		return err
	}
	if r.left+r.pad == 0 {
		r.endData(nil)
	}
	return nil
}

// data hands on what of a DATA frame is in p.
func (r *reader) data(p []byte) {
	if r.left > 0 {
		n := min(r.left, len(p))
		r.left -= n
		r.r += n
		if r.left > 0 || r.pad > 0 {
			if r.stream != nil {
				r.stream.receive(p[:n], false)
			}
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
	if r.stream != nil && (len(p) > 0 || r.end) {
		r.stream.receive(p, r.end)
	}
	r.stream, r.inFrame = nil, false
}

// lookup finds a stream; nil when it has ended. A stream that never was is a
// connection error (RFC 9113 section 5.1).
func (r *reader) lookup(id uint32) (*Stream, error) {
	if r.last != nil && r.last.id == id && !r.last.removed() {
		return r.last, nil
	}
	c := r.c
	c.mu.Lock()
	s := c.streams[id]
	idle := c.client && (id%2 == 0 || id >= c.nextID) || !c.client && (id%2 == 0 || id > r.highest)
	c.mu.Unlock()
	if s != nil {
		r.last = s
		return s, nil
	}
	if idle {
		return nil, connError{http2.ErrCodeProtocol, "frame for a stream that was never opened"}
	}
	return nil, nil
}

// closedStream answers DATA for a stream that has ended. The peer may not have
// seen our RST_STREAM yet, so this is no offence until there is a lot of it.
func (r *reader) closedStream(id uint32) error {
	if err := r.c.abuse.count(abuseOther); err != nil {
		return err
	}
	return r.c.w.later(func(b []byte) []byte { return appendRSTStream(b, id, http2.ErrCodeStreamClosed) })
}

func (r *reader) resetStream(s *Stream, id uint32, code http2.ErrCode) error {
	if s != nil {
		s.resetLater(code)
		return nil
	}
	return r.c.w.later(func(b []byte) []byte { return appendRSTStream(b, id, code) })
}

// returnCredit gives back connection credit, in steps, on receipt: stream
// credit is what bounds a slow stream.
func (r *reader) returnCredit(all bool) {
	if r.owed == 0 || !all && r.owed < r.c.opt.tunnelWindow/4 {
		return
	}
	n := r.owed
	r.owed = 0
	r.window += n
	r.c.w.later(func(b []byte) []byte { return appendWindowUpdate(b, 0, n) })
}
