package hbone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// reader takes a tunnel's frames apart. DATA is handed on where it lies, in the
// buffer that TLS decrypted it into; every other frame goes through
// http2.Framer, whole. All of it belongs to the goroutine that runs loop.
type reader struct {
	c      *conn
	framer *http2.Framer
	feed   bytes.Reader // what framer reads: one frame, or one header block

	plain *buffer // decrypted bytes; nil when none are held
	r, n  int     // plain.b[r:n] is not yet parsed

	// The DATA frame being read.
	stream  *Stream // nil: bytes are thrown away
	left    int     // payload bytes to come
	pad     int     // padding bytes after them
	end     bool    // END_STREAM
	inFrame bool

	preface int   // server: bytes of the client preface to come
	first   bool  // the peer's first SETTINGS has come
	window  int64 // connection credit that the peer has
	owed    int64 // connection credit to return
	last    *Stream
}

// maxControlFrame bounds a frame that is not DATA, and a header block with its
// CONTINUATION frames, in bytes: both have to lie in the read buffer whole.
const maxControlFrame = 48 << 10

func (r *reader) init(c *conn) {
	r.c = c
	r.window = c.opt.tunnelWindow
	if !c.client {
		r.preface = len(http2.ClientPreface)
	}
	r.framer = http2.NewFramer(io.Discard, &r.feed)
	r.framer.SetReuseFrames()
	r.framer.SetMaxReadFrameSize(maxControlFrame)
	r.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.framer.MaxHeaderListSize = c.opt.maxHeader
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
			more = r.c.wire.took()
		}
		if r.n > r.r {
			r.c.moved.Add(int64(r.n - r.r))
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
		if !more || errors.Is(err, errNothingAtHand) {
			return nil
		}
		if err != nil {
			return err
		}
	}
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
	if length == 0 && !r.end {
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
	idle := c.client && (id%2 == 0 || id >= c.nextID) || !c.client && (id%2 == 0 || id > c.lastID)
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

// control handles one whole frame that is not DATA.
func (r *reader) control(p []byte) error {
	if p[3] > frameContinuation { // unknown types are ignored (RFC 9113 section 5.5)
		return r.c.abuse.count(abuseOther)
	}
	r.feed.Reset(p)
	f, err := r.framer.ReadFrame()
	if err != nil {
		return r.frameError(err, binary.BigEndian.Uint32(p[5:])&maxStreamID, p[3])
	}
	switch f := f.(type) {
	case *http2.MetaHeadersFrame:
		return r.headers(f)
	case *http2.WindowUpdateFrame:
		return r.windowUpdate(f)
	case *http2.RSTStreamFrame:
		return r.rstStream(f)
	case *http2.PingFrame:
		return r.ping(f)
	case *http2.SettingsFrame:
		return r.settings(f)
	case *http2.GoAwayFrame:
		r.c.goAway(f.LastStreamID, f.ErrCode, f.DebugData())
		return nil
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return r.streamFailed(f.StreamID, http2.ErrCodeProtocol)
		}
		return r.c.abuse.count(abuseOther)
	case *http2.PushPromiseFrame:
		return connError{http2.ErrCodeProtocol, "PUSH_PROMISE although push is off"}
	default:
		return connError{http2.ErrCodeProtocol, "unexpected " + f.Header().Type.String()}
	}
}

// frameError sorts what http2.Framer found wrong.
func (r *reader) frameError(err error, id uint32, typ byte) error {
	var se http2.StreamError
	var ce http2.ConnectionError
	switch {
	case errors.As(err, &se):
		if typ == frameHeaders && !r.c.client {
			if err := r.takeID(se.StreamID); err != nil {
				return err
			}
		}
		return r.streamFailed(se.StreamID, se.Code)
	case errors.As(err, &ce):
		return connError{http2.ErrCode(ce), "malformed " + http2.FrameType(typ).String()}
	case errors.Is(err, http2.ErrFrameTooLarge):
		return connError{http2.ErrCodeFrameSize, "frame too large"}
	default:
		return connError{http2.ErrCodeProtocol, "malformed " + http2.FrameType(typ).String() + ": " + err.Error()}
	}
}

func (r *reader) streamFailed(id uint32, code http2.ErrCode) error {
	if err := r.c.abuse.count(abuseOther); err != nil {
		return err
	}
	r.c.mu.Lock()
	s := r.c.streams[id]
	r.c.mu.Unlock()
	return r.resetStream(s, id, code)
}

func (r *reader) windowUpdate(f *http2.WindowUpdateFrame) error {
	if err := r.c.abuse.count(abuseUpdate); err != nil {
		return err
	}
	if f.StreamID == 0 {
		if r.c.w.updateTunnel(int64(f.Increment)) {
			return connError{http2.ErrCodeFlowControl, "connection window above 2^31-1"}
		}
		return nil
	}
	s, err := r.lookup(f.StreamID)
	if err != nil || s == nil {
		return err
	}
	if r.c.w.updateStream(s, int64(f.Increment)) {
		s.resetLater(http2.ErrCodeFlowControl)
	}
	return nil
}

func (r *reader) rstStream(f *http2.RSTStreamFrame) error {
	if err := r.c.abuse.count(abuseReset); err != nil {
		return err
	}
	s, err := r.lookup(f.StreamID)
	if err != nil || s == nil {
		return err
	}
	s.peerReset(f.ErrCode)
	return nil
}

func (r *reader) ping(f *http2.PingFrame) error {
	if f.IsAck() {
		r.c.pong(f.Data)
		return nil
	}
	if err := r.c.abuse.count(abusePing); err != nil {
		return err
	}
	return r.c.w.later(func(b []byte) []byte { return appendPing(b, true, f.Data) })
}

func (r *reader) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		if !r.first {
			return connError{http2.ErrCodeProtocol, "first frame is not SETTINGS"}
		}
		return nil
	}
	if err := r.c.abuse.count(abuseSettings); err != nil {
		return err
	}
	c := r.c
	err := f.ForeachSetting(func(st http2.Setting) error {
		if err := st.Valid(); err != nil {
			code := http2.ErrCodeProtocol
			var ce http2.ConnectionError
			if errors.As(err, &ce) {
				code = http2.ErrCode(ce)
			}
			return connError{code, "invalid " + st.String()}
		}
		switch st.ID {
		case http2.SettingInitialWindowSize:
			return c.setInitialWindow(int64(st.Val))
		case http2.SettingMaxFrameSize:
			c.w.mu.Lock()
			// Frames that fill whole TLS records, header included.
			c.w.maxData = (int(st.Val)+frameHeaderLen)/recordSize*recordSize - frameHeaderLen
			c.w.mu.Unlock()
		case http2.SettingMaxConcurrentStreams:
			if c.client {
				c.mu.Lock()
				c.maxStreams = min(c.opt.maxStreams, st.Val)
				c.mu.Unlock()
				if c.changed != nil {
					c.changed()
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.first = true
	c.readyOnce.Do(func() { close(c.ready) })
	return c.w.later(func(b []byte) []byte { return appendFrameHeader(b, 0, frameSettings, flagAck, 0) })
}

// setInitialWindow applies SETTINGS_INITIAL_WINDOW_SIZE to the streams there
// are, too (RFC 9113 section 6.9.2).
func (c *conn) setInitialWindow(v int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	d := v - c.w.initial
	c.w.initial = v
	for _, s := range c.streams {
		if s.credit += d; s.credit > maxWindow {
			return connError{http2.ErrCodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE makes a window exceed 2^31-1"}
		}
		if s.credit > 0 {
			s.sendCond.Signal()
		}
	}
	return nil
}
