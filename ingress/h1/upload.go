package h1

import (
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// inlineBody is the longest body that is read and sent before the answer is
	// looked for, on the goroutine of RoundTrip.
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
	case length > 0 && length <= inlineBody && !waitsForContinue(req):
		err = cc.sendInline(b, req.Body, length)
		if err != nil && cc.wrote && cc.tcp != nil && !isBodyError(err) {
			// A peer that wants no more may have said why.
			cc.broken.Store(true)
			cc.c.SetReadDeadline(time.Now().Add(lastWords))
			req.Body.Close()
			err = nil
		}
		return false, err
	}
	if err := cc.write(b); err != nil {
		return false, err
	}
	if length != 0 && !waitsForContinue(req) {
		cc.startUpload(req)
	}
	return length != 0 && waitsForContinue(req), nil
}

// lastWords is how long an answer is waited for when the request could not be
// written to its end.
const lastWords = time.Second

func isBodyError(err error) bool {
	_, ok := err.(*BodyError)
	return ok
}

// write writes to the peer.
func (cc *ClientConn) write(b []byte) error {
	n, err := cc.c.Write(b)
	if n > 0 || cc.tcp == nil {
		cc.wrote = true
	}
	return err
}

// sendInline sends b, which is the head, and the body behind it.
func (cc *ClientConn) sendInline(b []byte, body io.ReadCloser, length int64) error {
	for eof := false; length > 0 || !eof; {
		if len(b) == cap(b) {
			if err := cc.write(b); err != nil {
				return err
			}
			b = b[:0]
		}
		room := b[len(b):cap(b)]
		n, err := body.Read(room[:min(int64(len(room)), length+1)])
		if length -= int64(n); length < 0 {
			return &BodyError{errBodyLong}
		}
		b = b[:len(b)+n]
		switch {
		case err == io.EOF && length > 0:
			return &BodyError{errBodyShort}
		case err == io.EOF:
			eof = true
		case err != nil:
			return &BodyError{err}
		}
	}
	body.Close()
	return cc.write(b)
}

// upload is a body on its way to the peer while the answer is awaited.
type upload struct {
	cc      *ClientConn
	req     *http.Request
	body    io.ReadCloser
	close   sync.Once // the body
	done    chan struct{}
	bodyErr error // *BodyError; to be read when done is closed
}

// startUpload sends the body from another goroutine, which ends before RoundTrip
// or the answer's body does.
func (cc *ClientConn) startUpload(req *http.Request) {
	cc.upload = &upload{cc: cc, req: req, body: req.Body, done: make(chan struct{})}
	go cc.upload.run()
}

// finished says whether the whole body has been sent.
func (u *upload) finished() bool {
	select {
	case <-u.done:
	default:
		t := time.NewTimer(uploadGrace)
		defer t.Stop()
		select {
		case <-u.done:
		case <-t.C:
			return false
		}
	}
	return u.bodyErr == nil
}

// wait ends the upload: whoever waits in the body's Read is woken by Close, which
// every body of a server does.
func (u *upload) wait() {
	select {
	case <-u.done:
		return
	default:
	}
	u.closeBody()
	<-u.done
}

func (u *upload) closeBody() { u.close.Do(func() { u.body.Close() }) }

func (u *upload) run() {
	defer close(u.done)
	defer u.closeBody()
	length := bodyLength(u.req)
	var err error
	if length > 0 {
		err = u.sendLength(length)
	} else {
		err = u.sendChunks()
	}
	if err == nil {
		return
	}
	u.cc.broken.Store(true)
	if isBodyError(err) {
		u.bodyErr = err
		u.cc.shut()
	}
	// If it is an error of the connection, the answer may still be in it.
}

// sendLength sends a body of known length.
func (u *upload) sendLength(length int64) error {
	from, _ := u.body.(Spliceable)
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	for eof := false; length > 0 || !eof; {
		if from != nil && u.cc.tcp != nil && length >= spliceMin && from.CanSplice() {
			n, err := from.SpliceTo(u.cc.tcp, length)
			if length -= n; err != nil {
				return u.spliceError(err)
			}
			if n > 0 {
				continue
			}
		}
		n, err := u.body.Read(buf[:min(bufferSize, length+1)])
		if length -= int64(n); length < 0 {
			return &BodyError{errBodyLong}
		}
		if n > 0 {
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
