package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// control handles one whole frame that is not DATA.
func (r *reader) control(typ, flags byte, id uint32, p []byte) error {
	switch typ {
	case frameHeaders:
		return r.headersFrame(flags, id, p)
	case frameContinuation:
		return r.continuation(flags, id, p)
	case frameWindowUpdate:
		return r.windowUpdate(id, p)
	case frameRSTStream:
		return r.rstStream(id, p)
	case framePing:
		return r.ping(flags, id, p)
	case frameSettings:
		return r.settingsFrame(flags, id, p)
	case framePriority:
		return r.priority(id, p)
	case frameGoAway:
		if id != 0 || len(p) < 8 {
			return connFailed(http2.ErrCodeProtocol, "malformed GOAWAY")
		}
		// A client that goes away opens no stream any more; those it has go on.
		return r.abuse.count(abuseOther)
	case framePushPromise:
		return connFailed(http2.ErrCodeProtocol, "PUSH_PROMISE of a client")
	case framePriorityUpdate:
		return r.priorityUpdate(id, p)
	}
	return r.abuse.count(abuseOther) // unknown types are ignored (RFC 9113 section 5.5)
}

// headersFrame begins a header block (RFC 9113 section 6.2).
func (r *reader) headersFrame(flags byte, id uint32, p []byte) error {
	if id == 0 {
		return connFailed(http2.ErrCodeProtocol, "HEADERS on stream 0")
	}
	pad := 0
	if flags&flagPadded != 0 {
		if len(p) == 0 {
			return connFailed(http2.ErrCodeFrameSize, "padded HEADERS without a pad length")
		}
		pad, p = int(p[0]), p[1:]
	}
	self := false
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return connFailed(http2.ErrCodeFrameSize, "HEADERS too short for its priority")
		}
		self = streamID(p) == id
		p = p[5:]
	}
	if pad > len(p) {
		return connFailed(http2.ErrCodeProtocol, "HEADERS padding longer than its frame")
	}
	r.blocks.begin(id, flags&flagEndStream != 0)
	r.blocks.b.selfDep = self
	c := r.c
	c.mu.Lock()
	r.blocks.b.trailer = c.streams[id] != nil
	c.mu.Unlock()
	return r.blockPart(p[:len(p)-pad], flags&flagEndHeaders != 0)
}

func (r *reader) continuation(flags byte, id uint32, p []byte) error {
	if !r.blocks.open {
		return connFailed(http2.ErrCodeProtocol, "CONTINUATION without HEADERS")
	}
	return r.blockPart(p, flags&flagEndHeaders != 0)
}

func (r *reader) blockPart(p []byte, end bool) error {
	if err := r.blocks.fragment(p, end); err != nil || !end {
		return err
	}
	b := &r.blocks.b
	b.done()
	if b.trailer {
		return r.trailers(b)
	}
	return r.openStream(b)
}

func (r *reader) windowUpdate(id uint32, p []byte) error {
	if len(p) != 4 {
		return connFailed(http2.ErrCodeFrameSize, "WINDOW_UPDATE of another length than 4")
	}
	if err := r.abuse.count(abuseCheap); err != nil {
		return err
	}
	n := int64(streamID(p))
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == 0 {
		if n == 0 {
			return connFailed(http2.ErrCodeProtocol, "WINDOW_UPDATE of nothing")
		}
		if c.w.window+n > maxWindow {
			return connFailed(http2.ErrCodeFlowControl, "connection window above 2^31-1")
		}
		c.w.window += n
		return nil
	}
	s := c.streams[id]
	if s == nil {
		return r.lateLocked(id)
	}
	switch {
	case n == 0:
		c.resetLocked(s, http2.ErrCodeProtocol, errBroken)
	case s.send.window+n > maxWindow:
		c.resetLocked(s, http2.ErrCodeFlowControl, errBroken)
	default:
		s.send.widenLocked(n)
	}
	return nil
}

// lateLocked handles a frame that a stream may get when it is over already.
func (r *reader) lateLocked(id uint32) error {
	if id%2 == 0 || id > r.c.highest {
		return connFailed(http2.ErrCodeProtocol, "frame of a stream that was never opened")
	}
	return nil
}

func (r *reader) rstStream(id uint32, p []byte) error {
	if len(p) != 4 {
		return connFailed(http2.ErrCodeFrameSize, "RST_STREAM of another length than 4")
	}
	if id == 0 {
		return connFailed(http2.ErrCodeProtocol, "RST_STREAM on stream 0")
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	if s == nil {
		if err := r.lateLocked(id); err != nil {
			return err
		}
		return r.abuse.count(abuseCheap) // it crossed our end of the stream
	}
	early := !s.answered
	s.endLocked(&ResetError{http2.ErrCode(binary.BigEndian.Uint32(p))})
	if early {
		return r.abuse.reset(c.answered)
	}
	return nil
}

func (r *reader) ping(flags byte, id uint32, p []byte) error {
	switch {
	case len(p) != 8:
		return connFailed(http2.ErrCodeFrameSize, "PING of another length than 8")
	case id != 0:
		return connFailed(http2.ErrCodeProtocol, "PING on a stream")
	case flags&flagAck != 0:
		if [8]byte(p) == drainPing {
			r.c.drainSeen()
		}
		return r.abuse.count(abuseOther)
	}
	if err := r.abuse.count(abusePing); err != nil {
		return err
	}
	c := r.c
	c.mu.Lock()
	c.w.out = appendPing(c.w.out, flagAck, [8]byte(p))
	c.mu.Unlock()
	return nil
}

func (r *reader) settingsFrame(flags byte, id uint32, p []byte) error {
	switch {
	case id != 0:
		return connFailed(http2.ErrCodeProtocol, "SETTINGS on a stream")
	case flags&flagAck != 0:
		if len(p) != 0 {
			return connFailed(http2.ErrCodeFrameSize, "SETTINGS with ACK and a payload")
		}
		return r.abuse.count(abuseOther)
	case len(p)%6 != 0:
		return connFailed(http2.ErrCodeFrameSize, "SETTINGS of a length that is no multiple of 6")
	}
	if err := r.abuse.count(abuseSettings); err != nil {
		return err
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(p) > 0; p = p[6:] {
		if err := c.settingLocked(http2.Setting{
			ID:  http2.SettingID(binary.BigEndian.Uint16(p)),
			Val: binary.BigEndian.Uint32(p[2:]),
		}); err != nil {
			return err
		}
	}
	if !r.settings {
		r.settings = true
		c.startedLocked()
	}
	c.w.out = appendFrameHeader(c.w.out, 0, frameSettings, flagAck, 0)
	return nil
}

// settingLocked heeds one of the client's settings (RFC 9113 section 6.5.2). Those
// that a server has no use for are checked all the same.
func (c *conn) settingLocked(st http2.Setting) error {
	switch st.ID {
	case http2.SettingHeaderTableSize:
		c.w.enc.resize(st.Val)
	case http2.SettingEnablePush, settingConnectProtocol, settingNoPriorities:
		if st.Val > 1 {
			return connFailed(http2.ErrCodeProtocol, "setting that is neither 0 nor 1")
		}
	case http2.SettingInitialWindowSize:
		if st.Val > maxWindow {
			return connFailed(http2.ErrCodeFlowControl, "SETTINGS_INITIAL_WINDOW_SIZE above 2^31-1")
		}
		return c.w.setInitialLocked(int64(st.Val))
	case http2.SettingMaxFrameSize:
		if st.Val < maxFrame || st.Val > 1<<24-1 {
			return connFailed(http2.ErrCodeProtocol, "SETTINGS_MAX_FRAME_SIZE out of range")
		}
	}
	return nil
}

// priority heeds nothing but the form of RFC 7540's priorities.
func (r *reader) priority(id uint32, p []byte) error {
	if id == 0 {
		return connFailed(http2.ErrCodeProtocol, "PRIORITY on stream 0")
	}
	if err := r.abuse.count(abuseOther); err != nil {
		return err
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.streams[id]
	switch {
	case len(p) != 5 && s != nil:
		c.resetLocked(s, http2.ErrCodeFrameSize, errBroken)
	case len(p) != 5:
		if id <= c.highest {
			c.w.out = appendRSTStream(c.w.out, id, http2.ErrCodeFrameSize)
		} else {
			return connFailed(http2.ErrCodeFrameSize, "PRIORITY of another length than 5")
		}
	case streamID(p) == id && s != nil:
		c.resetLocked(s, http2.ErrCodeProtocol, errSelfDependent)
	case streamID(p) == id:
		if id > c.highest {
			return connFailed(http2.ErrCodeProtocol, "stream that depends on itself")
		}
		c.w.out = appendRSTStream(c.w.out, id, http2.ErrCodeProtocol)
	}
	return nil
}

// priorityUpdate is RFC 9218 section 7.1. One that comes before its request is not
// kept: the request's own header says the same, as a rule.
func (r *reader) priorityUpdate(id uint32, p []byte) error {
	if id != 0 || len(p) < 4 {
		return connFailed(http2.ErrCodeProtocol, "malformed PRIORITY_UPDATE")
	}
	if err := r.abuse.count(abuseOther); err != nil {
		return err
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.streams[streamID(p)]; s != nil {
		s.send.urgency = urgency(string(p[4:min(len(p), 64)]))
	}
	return nil
}

// urgency is what a Priority field says (RFC 9218 section 4.1).
func urgency(field string) uint8 {
	for i := 0; i+2 < len(field); i++ {
		if field[i] == 'u' && field[i+1] == '=' && (i == 0 || field[i-1] == ' ' || field[i-1] == ',') {
			if u := field[i+2]; '0' <= u && u <= '7' {
				return u - '0'
			}
		}
	}
	return defaultUrgency
}
