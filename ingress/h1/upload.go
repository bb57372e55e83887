package h1

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// inlineBody is the longest body that is sent before the answer is looked for,
	// on the goroutine of RoundTrip, if all of it is there.
	inlineBody = 64 << 10
	// uploadGrace is how long an answer that is at its end waits for the last bytes
	// of the request: most often they are sent already.
	uploadGrace = 50 * time.Millisecond
)

// send writes the request, or begins to. waits says that the body has to wait for
// 100 Continue.
func (cc *ClientConn) send(req *http.Request) (waits bool, err error) {
	length := bodyLength(req)
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	b, err := appendRequest(buf[:0], req, length)
	switch {
	case err != nil:
		return false, err
	case length != 0 && waitsForContinue(req):
		return true, cc.write(b)
	case length > 0 && length <= inlineBody && isThere(req.Body, length):
		return false, cc.sendInline(b, req, length)
	}
	if err := cc.write(b); err != nil || length == 0 {
		return false, err
	}
	cc.startUpload(req, length)
	return false, nil
}

// isThere says that reading so many bytes of a body takes no waiting. Otherwise
// the head goes ahead: who sends the body may be waiting for an answer to that.
func isThere(body io.Reader, length int64) bool {
	src, ok := body.(Source)
	return ok && int64(src.Buffered()) >= length
}

// lastWords is how long an answer is waited for when the request could not be
// written to its end.
const lastWords = time.Second

// write writes to the peer.
func (cc *ClientConn) write(b []byte) error {
	n, err := cc.c.Write(b)
	if n > 0 || cc.tcp == nil {
		cc.wrote = true
	}
	return err
}

// sendInline sends b, which is the head, and the body behind it.
func (cc *ClientConn) sendInline(b []byte, req *http.Request, length int64) error {
	cc.bodyRead = true
	eof := false
	for length > 0 {
		if len(b) == cap(b) {
			if err := cc.write(b); err != nil {
				return cc.cutOff(req, err)
			}
			b = b[:0]
		}
		room := b[len(b):cap(b)]
		n, err := req.Body.Read(room[:min(int64(len(room)), length+1)])
		if length -= int64(n); length < 0 {
			return &BodyError{errBodyLong}
		}
		b = b[:len(b)+n]
		if eof = err == io.EOF; eof && length > 0 {
			return &BodyError{errBodyShort}
		}
		if err != nil && !eof {
			return &BodyError{err}
		}
	}
	if err := cc.write(b); err != nil {
		return cc.cutOff(req, err)
	}
	if !eof {
		// The end of a stream may come long after its last byte.
		cc.startUpload(req, 0)
		return nil
	}
	req.Body.Close()
	return nil
}

// cutOff decides what becomes of a request that could not be written to its end: a
// peer that wants no more of it may have said why.
func (cc *ClientConn) cutOff(req *http.Request, err error) error {
	if !cc.wrote || cc.tcp == nil {
		return err
	}
	cc.broken.Store(true)
	cc.c.SetReadDeadline(time.Now().Add(lastWords))
	req.Body.Close()
	return nil
}

// upload is a body on its way to the peer while the answer is awaited.
type upload struct {
	cc      *ClientConn
	req     *http.Request
	body    io.ReadCloser
	left    int64     // of the length; -1 = unknown
	close   sync.Once // the body
	done    chan struct{}
	last    atomic.Bool // the last bytes are being written, or have been
	bodyErr atomic.Pointer[BodyError]
}

// startUpload sends the last bytes of the body, left of them, from another
// goroutine. It ends with the exchange or, if it waits in the body's Read then, as
// soon as that returns.
func (cc *ClientConn) startUpload(req *http.Request, left int64) {
	cc.bodyRead = true
	u := &upload{cc: cc, req: req, body: req.Body, left: left, done: make(chan struct{})}
	u.last.Store(left == 0)
	cc.upload = u
	go u.run()
}

// finished says whether the whole body has been sent. An answer to less than the
// whole is none to wait with.
func (u *upload) finished() bool {
	select {
	case <-u.done:
		return u.bodyErr.Load() == nil
	default:
	}
	if !u.last.Load() {
		return false
	}
	t := time.NewTimer(uploadGrace)
	defer t.Stop()
	select {
	case <-u.done:
		return u.bodyErr.Load() == nil
	case <-t.C:
		return false
	}
}

// abandon ends the upload. A body of a server is shared with the next attempt to
// send it, so that its Close need not wake who waits in its Read: that ends with
// the handler, and touches nothing that is used again.
func (u *upload) abandon() { u.close.Do(func() { u.body.Close() }) }

func (u *upload) run() {
	defer close(u.done)
	defer u.abandon()
	var err error
	if u.left >= 0 {
		err = u.sendLength()
	} else {
		err = u.sendChunks()
	}
	if err == nil {
		return
	}
	u.cc.broken.Store(true)
	if berr, ok := err.(*BodyError); ok {
		u.bodyErr.Store(berr) // before the connection's error, which it causes
		u.cc.shut()
	}
	// If it is an error of the connection, the answer may still be in it.
}

// sendLength sends a body of known length.
func (u *upload) sendLength() error {
	length := u.left
	from, _ := u.body.(Spliceable)
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	for eof := false; length > 0 || !eof; {
		if from != nil && u.cc.tcp != nil && length >= spliceMin && from.CanSplice() {
			u.last.Store(length <= spliceStep)
			n, err := from.SpliceTo(u.cc.tcp, length)
			if length -= n; err != nil {
				return u.spliceError(err)
			}
			u.last.Store(length == 0)
			if n > 0 {
				continue
			}
		}
		n, err := u.body.Read(buf[:min(bufferSize, length+1)])
		if length -= int64(n); length < 0 {
			return &BodyError{errBodyLong}
		}
		if n > 0 {
			u.last.Store(length == 0)
			if _, err := u.cc.c.Write(buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && length > 0:
			return &BodyError{errBodyShort}
		case err == io.EOF:
			eof = true
		case err != nil:
			return &BodyError{err}
		}
	}
	return nil
}

// spliceError tells whose error it was: the kernel does not.
func (u *upload) spliceError(err error) error {
	if peerClosed(u.cc.sock) {
		return err
	}
	return &BodyError{err}
}

// sendChunks sends a body of unknown length, and its trailer.
func (u *upload) sendChunks() error {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	for {
		n, rerr := u.body.Read(buf[chunkRoom : bufferSize-tailRoom])
		b := buf[chunkRoom : chunkRoom+n]
		if n > 0 {
			var a [chunkRoom]byte
			size := appendChunkSize(a[:0], n)
			start := chunkRoom - len(size)
			copy(buf[start:], size)
			b = append(buf[start:chunkRoom+n], "\r\n"...)
		}
		if rerr != nil && rerr != io.EOF {
			return &BodyError{rerr}
		}
		if rerr == io.EOF {
			var err error
			if b, err = appendRequestTrailer(b, u.req.Trailer); err != nil {
				return &BodyError{err}
			}
			u.last.Store(true)
		}
		if len(b) > 0 {
			if _, err := u.cc.c.Write(b); err != nil {
				return err
			}
		}
		if rerr == io.EOF {
			return nil
		}
	}
}
