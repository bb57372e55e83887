package h1

import (
	"errors"
	"io"
	"net/http"
)

// What a chunked body costs at most beside its data.
const (
	maxChunkLine  = 1 << 10  // a chunk's size with its extensions
	maxExtensions = 16 << 10 // of all chunks of a body
	maxTrailer    = 8 << 10
	maxTrailers   = 32
)

var (
	errChunkSize    = errors.New("invalid chunk size")
	errChunkExt     = errors.New("invalid or too long chunk extension")
	errChunkEnd     = errors.New("chunk data is not followed by CRLF")
	errTrailerField = errors.New("field that may not be in a trailer")
	errTrailerSize  = errors.New("trailer too large")
)

// malformed is an error of a peer who breaks the protocol within a body.
type malformed struct{ err error }

func (e *malformed) Error() string { return "malformed body: " + e.err.Error() }
func (e *malformed) Unwrap() error { return e.err }

type bodyState uint8

const (
	bodyDone     bodyState = iota
	bodyData               // left bytes of the length, or of the chunk, are to come
	bodyUntilEOF           // as much as comes
	bodyChunkEnd           // CRLF behind a chunk's data
	bodyChunk              // a chunk's size
	bodyTrailer
)

// messageBody reads the body of one message. The zero value is one without.
type messageBody struct {
	r       *reader
	state   bodyState
	chunked bool
	left    int64
	ext     int // bytes of extensions so far
	scan    headScan
	trailer http.Header // set when the body is at its end
}

// start begins a body of the length that messageLength told.
func (b *messageBody) start(r *reader, length int64) {
	b.r = r
	switch {
	case length == lengthChunked:
		b.state, b.chunked = bodyChunk, true
	case length == lengthUnknown:
		b.state = bodyUntilEOF
	case length > 0:
		b.state, b.left = bodyData, length
	}
}

// read reads into p. io.EOF comes at the message's end, with its last bytes if
// they are known to be the last; an end of the connection before is
// io.ErrUnexpectedEOF.
func (b *messageBody) read(p []byte) (n int, err error) {
	for {
		switch b.state {
		case bodyDone:
			return n, io.EOF
		case bodyUntilEOF:
			n, err := b.r.read(p)
			if err == io.EOF {
				b.state = bodyDone
			}
			return n, err
		case bodyData:
			if n == len(p) {
				return n, nil
			}
			if n > 0 && b.r.buffered() == 0 {
				return n, nil
			}
			q := p[n:]
			if int64(len(q)) > b.left {
				q = q[:b.left]
			}
			m, err := b.r.read(q)
			n += m
			b.consumed(int64(m))
			if err != nil {
				return n, truncated(err)
			}
		default:
			ok, err := b.advance()
			if err != nil {
				return n, err
			}
			if !ok {
				if n > 0 {
					return n, nil
				}
				if err := b.r.more(); err != nil {
					return 0, truncated(err)
				}
			}
		}
	}
}

// consumed counts n bytes of data.
func (b *messageBody) consumed(n int64) {
	b.left -= n
	if b.left == 0 {
		if b.chunked {
			b.state = bodyChunkEnd
		} else {
			b.state = bodyDone
		}
	}
}

func truncated(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ready says that read will not wait.
func (b *messageBody) ready() bool {
	return b.state == bodyDone || b.r.buffered() > 0 && (b.state == bodyData || b.state == bodyUntilEOF)
}

// there is how many bytes of data read gives without waiting.
func (b *messageBody) there() int {
	switch b.state {
	case bodyData:
		return int(min(b.left, int64(b.r.buffered())))
	case bodyUntilEOF:
		return b.r.buffered()
	}
	return 0
}

// dropBuffered reads past as much of the body as is there.
func (b *messageBody) dropBuffered() {
	for b.state != bodyDone {
		if b.state == bodyData {
			n := b.there()
			if n == 0 {
				return
			}
			b.r.discard(n)
			b.consumed(int64(n))
		} else if ok, err := b.advance(); !ok || err != nil {
			return
		}
	}
}

// advance goes one step on between the data of chunks, if what it needs is
// buffered.
func (b *messageBody) advance() (bool, error) {
	switch b.state {
	case bodyUntilEOF:
		return false, nil
	case bodyChunkEnd:
		in := b.r.bytes()
		if len(in) > 0 && in[0] != '\r' || len(in) > 1 && in[1] != '\n' {
			return false, &malformed{errChunkEnd}
		}
		if len(in) < 2 {
			return false, nil
		}
		b.r.discard(2)
		b.state = bodyChunk
		return true, nil
	case bodyChunk:
		line, n, err := b.r.line(maxChunkLine)
		if err != nil {
			return false, &malformed{err}
		}
		if n == 0 {
			return false, nil
		}
		size, ext, err := parseChunk(line)
		if b.ext += ext; err == nil && b.ext > maxExtensions {
			err = errChunkExt
		}
		if err != nil {
			return false, &malformed{err}
		}
		b.r.discard(n)
		b.left, b.state = size, bodyData
		if size == 0 {
			b.state, b.scan = bodyTrailer, headScan{}
		}
		return true, nil
	}
	in := b.r.bytes()
	end, err := b.scan.scan(in)
	switch {
	case err != nil:
		return false, &malformed{err}
	case end > maxTrailer || end == 0 && len(in) > maxTrailer || b.scan.lines > maxTrailers:
		return false, &malformed{errTrailerSize}
	case end == 0:
		return false, nil
	}
	if b.scan.lines > 0 {
		h, err := parseFields(string(in[:end]), b.scan.lines, 0)
		if err != nil {
			return false, &malformed{err}
		}
		for name := range h {
			if forbiddenTrailer[name] {
				return false, &malformed{errTrailerField}
			}
		}
		b.trailer = h
	}
	b.r.discard(end)
	b.state = bodyDone
	return true, nil
}

// addTrailer adds the trailer to the keys that were announced.
func (b *messageBody) addTrailer(to *http.Header) {
	if *to == nil {
		*to = b.trailer
		return
	}
	for name, values := range b.trailer {
		(*to)[name] = values
	}
}

// parseChunk parses a chunk's size, and says how long its extensions are. It is
// 1*HEXDIG and nothing around it: no sign, no prefix, no whitespace.
func parseChunk(line []byte) (size int64, ext int, err error) {
	i := 0
	for ; i < len(line) && class[line[i]]&isHex != 0; i++ {
		if i == 15 { // of which none overflows
			return 0, 0, errChunkSize
		}
		c := line[i]
		switch {
		case c <= '9':
			c -= '0'
		case c >= 'a':
			c -= 'a' - 10
		default:
			c -= 'A' - 10
		}
		size = size<<4 | int64(c)
	}
	rest := line[i:]
	if i == 0 || len(rest) > 0 && rest[0] != ';' {
		return 0, 0, errChunkSize
	}
	if !all(rest, isValue) {
		return 0, 0, errChunkExt
	}
	return size, len(rest), nil
}

// skip reads up to limit bytes of what is left and says whether that was all.
func (b *messageBody) skip(limit int64) bool {
	if b.state == bodyDone {
		return true
	}
	if b.state == bodyData && !b.chunked && b.left > limit {
		return false
	}
	scratch := buffers.Get().(*buffer)
	defer buffers.Put(scratch)
	for limit > 0 {
		n, err := b.read(scratch[:min(limit, bufferSize)])
		limit -= int64(n)
		if err != nil {
			return err == io.EOF
		}
	}
	return b.state == bodyDone
}
