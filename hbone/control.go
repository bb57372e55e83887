package hbone

import (
	"errors"

	"golang.org/x/net/http2"
)

// control handles one whole frame that is not DATA.
func (r *reader) control(p []byte) error {
	if p[3] > frameContinuation { // unknown types are ignored (RFC 9113 section 5.5)
		return r.c.abuse.count(abuseOther)
	}
	if p[3] == frameHeaders {
		h, err := r.blocks.read(p)
		if err != nil {
			return r.frameError(err, frameHeaders)
		}
		return r.headers(h)
	}
	r.feed.Reset(p)
	f, err := r.framer.ReadFrame()
	if err != nil {
		return r.frameError(err, p[3])
	}
	switch f := f.(type) {
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

// frameError sorts what http2.Framer or blockReader found wrong.
func (r *reader) frameError(err error, typ byte) error {
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
	s, err := r.lookup(f.StreamID)
	if err != nil {
		return err
	}
	// The end of a connection that was let in is no offence, however it ends;
	// a reset before we have answered may be (CVE-2023-44487).
	if s == nil || !s.answeredOK() {
		if err := r.c.abuse.count(abuseReset); err != nil || s == nil {
			return err
		}
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
