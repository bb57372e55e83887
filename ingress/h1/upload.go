package h1

import (
	"io"
	"net/http"
	"strconv"
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

// bodyLength is the length of a request's body, -1 if it is not known.
func bodyLength(req *http.Request) int64 {
	switch {
	case req.Body == nil || req.Body == http.NoBody:
		return 0
	case req.ContentLength > 0:
		return req.ContentLength
	}
	return -1
}

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

func waitsForContinue(req *http.Request) bool {
	v := req.Header["Expect"]
	return len(v) == 1 && equalFold(v[0], "100-continue")
}

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

// appendRequestTrailer ends a chunked body.
func appendRequestTrailer(b []byte, trailer http.Header) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for name, values := range trailer {
		if forbiddenTrailer[name] {
			continue
		}
		for _, v := range values {
			if !validToken(name) || !validValue(v) {
				return nil, errRequest
			}
			b = appendField(b, name, v)
		}
	}
	return append(b, "\r\n"...), nil
}

// appendRequest appends the head of a request.
func appendRequest(b []byte, req *http.Request, length int64) ([]byte, error) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	switch {
	case req.Method == http.MethodConnect:
		return nil, errConnectMethod
	case req.Method != "" && !validToken(req.Method), host != "" && !validHost(host):
		return nil, errRequest
	case req.Method == "":
		b = append(b, http.MethodGet...)
	default:
		b = append(b, req.Method...)
	}
	b = append(b, ' ')
	at := len(b)
	b = appendTarget(b, req)
	if !validTarget(b[at:]) {
		return nil, errRequest
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		}
		for _, v := range values {
			if !validToken(name) || !validValue(v) {
				return nil, errRequest
			}
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, v...)
			b = append(b, "\r\n"...)
		}
	}
	if req.Close && !hasToken(req.Header["Connection"], "close") {
		b = append(b, "Connection: close\r\n"...)
	}
	switch {
	case length > 0:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, length, 10)
		b = append(b, "\r\n"...)
	case length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		b = appendTrailerNames(b, req.Trailer)
	case req.Method == http.MethodPost, req.Method == http.MethodPut, req.Method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	return append(b, "\r\n"...), nil
}

// appendTarget appends what url.URL.RequestURI returns.
func appendTarget(b []byte, req *http.Request) []byte {
	u := req.URL
	if u.Opaque != "" || u.Path == "" {
		return append(b, u.RequestURI()...)
	}
	b = append(b, u.EscapedPath()...)
	if u.ForceQuery || u.RawQuery != "" {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	return b
}

// appendTrailerNames announces the trailer.
func appendTrailerNames(b []byte, trailer http.Header) []byte {
	sep := "Trailer: "
	for name := range trailer {
		if validToken(name) && !forbiddenTrailer[name] {
			b = append(b, sep...)
			b = append(b, name...)
			sep = ", "
		}
	}
	if sep == ", " {
		b = append(b, "\r\n"...)
	}
	return b
}
