package hbone

import (
	"strconv"

	"golang.org/x/net/http2"
)

// headers handles a header block: a CONNECT request at a server, its answer at
// a client.
func (r *reader) headers(h *headerBlock) error {
	id := h.id
	if r.c.client {
		return r.answer(h)
	}
	r.c.mu.Lock()
	s := r.c.streams[id]
	r.c.mu.Unlock()
	if s != nil {
		// Nothing but DATA may follow on a CONNECT stream (RFC 9113 section 8.5).
		code := http2.ErrCodeProtocol
		if s.peerEnded() {
			code = http2.ErrCodeStreamClosed
		}
		return r.resetStream(s, id, code)
	}
	if id%2 == 1 && id <= r.highest {
		return connError{http2.ErrCodeStreamClosed, "HEADERS on a closed stream"}
	}
	if err := r.takeID(id); err != nil {
		return err
	}
	if h.priority && h.depends == id {
		return r.streamFailed(id, http2.ErrCodeProtocol)
	}
	return r.request(h)
}

// takeID notes that the peer has opened stream id: ids are odd and grow (RFC
// 9113 section 5.1.1).
func (r *reader) takeID(id uint32) error {
	if id%2 == 0 || id <= r.highest {
		return connError{http2.ErrCodeProtocol, "stream id " + strconv.FormatUint(uint64(id), 10) + " is even or not above the last"}
	}
	r.highest = id
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.finalSent {
		c.lastID = id
	}
	return nil
}

// request starts the handler of a new stream, or refuses it.
func (r *reader) request(h *headerBlock) error {
	c, id := r.c, h.id
	if h.truncated {
		return r.refuse(id, 431, h.ended)
	}
	var req Request
	var method string
	bad := false
	for i, f := range h.fields {
		switch f.Name {
		case ":method":
			method = f.Value
		case ":authority":
			req.Authority = f.Value
		case ":scheme", ":path", ":protocol":
			bad = true
		case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
			return r.streamFailed(id, http2.ErrCodeProtocol) // RFC 9113 section 8.2.2
		case "te":
			if f.Value != "trailers" {
				return r.streamFailed(id, http2.ErrCodeProtocol)
			}
		case "content-length":
			// Means nothing to CONNECT (RFC 9110 section 9.3.6).
		default:
			if req.Header == nil {
				req.Header = make([]Header, 0, len(h.fields)-i)
			}
			req.Header = append(req.Header, Header{f.Name, f.Value})
		}
	}
	if method != "CONNECT" {
		if !wellFormed(h) {
			return r.streamFailed(id, http2.ErrCodeProtocol)
		}
		return r.refuse(id, 400, h.ended)
	}
	if bad || req.Authority == "" {
		return r.streamFailed(id, http2.ErrCodeProtocol) // RFC 9113 section 8.5
	}

	if err := c.w.overdue(); err != nil { // handlers answer by themselves, not by later
		return err
	}
	s := newStream(c)
	s.id = id
	s.req = req
	c.mu.Lock()
	if c.finalSent || c.err != nil {
		c.mu.Unlock()
		return r.streamFailed(id, http2.ErrCodeRefusedStream)
	}
	if c.working >= int(c.opt.maxStreams) {
		c.mu.Unlock()
		return r.streamFailed(id, http2.ErrCodeRefusedStream)
	}
	// A slot is free again when the handler has returned, not when the peer
	// has reset the stream: resets buy no work.
	c.working++
	c.streams[id] = s
	c.w.mu.Lock()
	s.credit = c.w.initial
	c.w.mu.Unlock()
	c.mu.Unlock()
	if h.ended {
		s.receive(nil, true)
	}
	c.wg.Go(func() { c.runHandler(s) })
	return nil
}

// runHandler runs the handler of one stream and ends what it leaves open.
func (c *conn) runHandler(s *Stream) {
	defer func() {
		s.Close()
		s.cancel()
		c.mu.Lock()
		c.working--
		c.closeIfDoneLocked()
		c.mu.Unlock()
	}()
	c.serve(s)
}

// wellFormed says whether the pseudo-headers make an ordinary request (RFC 9113
// section 8.3.1). blockReader has checked the rest.
func wellFormed(h *headerBlock) bool {
	return h.pseudo(":method") != "" && h.pseudo(":scheme") != "" && h.pseudo(":path") != ""
}

// refuse answers a stream that never starts.
func (r *reader) refuse(id uint32, status int, ended bool) error {
	if err := r.c.abuse.count(abuseOther); err != nil {
		return err
	}
	return r.c.w.later(func(b []byte) []byte {
		b = appendHeaders(b, id, appendStatus(nil, status, nil), true)
		if !ended {
			b = appendRSTStream(b, id, http2.ErrCodeNo)
		}
		return b
	})
}

// answer handles the answer to a CONNECT.
func (r *reader) answer(h *headerBlock) error {
	s, err := r.lookup(h.id)
	if err != nil || s == nil {
		return err
	}
	status, aerr := strconv.Atoi(h.pseudo(":status"))
	if aerr != nil || status < 100 || status > 999 || status == 101 || h.truncated {
		s.resetLater(http2.ErrCodeProtocol)
		return nil
	}
	if status < 200 {
		if h.ended {
			s.resetLater(http2.ErrCodeProtocol)
		}
		return r.c.abuse.count(abuseOther)
	}
	if !s.answered(status, h.header()) {
		s.resetLater(http2.ErrCodeProtocol) // trailers, on a CONNECT stream
		return nil
	}
	r.c.mu.Lock()
	r.c.served = true
	r.c.mu.Unlock()
	if h.ended {
		s.receive(nil, true)
	}
	return nil
}
