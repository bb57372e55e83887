package hbone

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// blockReader decodes header blocks: HEADERS and the CONTINUATION frames after
// it. It finds wrong what http2.Framer with ReadMetaHeaders does, whose errors
// it returns but for one, and makes nothing anew for each block but the strings: the
// decoding of blocks was half of what a stream allocated.
type blockReader struct {
	hpack *hpack.Decoder
	limit uint32 // of a header list, as RFC 9113 section 6.5.2 counts it
	block headerBlock

	// Of the block being read.
	left    uint32 // of limit
	regular bool   // a field that is no pseudo-header has come
	invalid error
}

// headerBlock is one decoded header block. It is valid until the next is read.
type headerBlock struct {
	id        uint32
	ended     bool   // END_STREAM
	depends   uint32 // stream that it has priority over, if priority
	priority  bool
	truncated bool // longer than the limit; fields are those that fit
	fields    []hpack.HeaderField
}

func (b *blockReader) init(limit uint32) {
	b.hpack = hpack.NewDecoder(4096, b.emit)
	b.hpack.SetMaxStringLength(int(limit))
	b.limit = limit
}

// read decodes the frames in p, which are whole.
func (b *blockReader) read(p []byte) (*headerBlock, error) {
	id := binary.BigEndian.Uint32(p[5:]) & maxStreamID
	if id == 0 {
		return nil, http2.ConnectionError(http2.ErrCodeProtocol)
	}
	fields := b.block.fields[:0]
	if cap(fields) > 32 { // a rare block
		fields = nil
	}
	clear(fields[:cap(fields)]) // the last block's strings can go
	b.block = headerBlock{id: id, ended: p[4]&flagEndStream != 0, fields: fields}
	b.left, b.regular, b.invalid = b.limit, false, nil
	fragment, rest, err := b.opening(p)
	if err != nil {
		return nil, err
	}
	b.hpack.SetEmitEnabled(true)
	for {
		if err := b.decode(fragment); err != nil {
			return nil, err
		}
		if len(rest) == 0 {
			break
		}
		if binary.BigEndian.Uint32(rest[5:])&maxStreamID != id {
			return nil, http2.ConnectionError(http2.ErrCodeProtocol)
		}
		fragment, rest = cutFrame(rest)
	}
	if err := b.hpack.Close(); err != nil {
		return nil, http2.ConnectionError(http2.ErrCodeCompression)
	}
	if b.invalid == nil {
		b.invalid = pseudosValid(b.block.fields)
	}
	if b.invalid != nil {
		return nil, http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol, Cause: b.invalid}
	}
	return &b.block, nil
}

// cutFrame is the payload of the first frame in p, and the frames after it.
func cutFrame(p []byte) (payload, rest []byte) {
	end := frameHeaderLen + (int(p[0])<<16 | int(p[1])<<8 | int(p[2]))
	return p[frameHeaderLen:end], p[end:]
}

// opening reads what precedes the fragment in a HEADERS frame (RFC 9113 section
// 6.2).
func (b *blockReader) opening(p []byte) (fragment, rest []byte, err error) {
	flags := p[4]
	fragment, rest = cutFrame(p)
	pad := 0
	if flags&flagPadded != 0 {
		if len(fragment) == 0 {
			return nil, nil, io.ErrUnexpectedEOF
		}
		pad, fragment = int(fragment[0]), fragment[1:]
	}
	if flags&flagPriority != 0 {
		if len(fragment) < 5 {
			return nil, nil, io.ErrUnexpectedEOF
		}
		b.block.priority, b.block.depends = true, binary.BigEndian.Uint32(fragment)&maxStreamID
		fragment = fragment[5:]
	}
	if pad > len(fragment) {
		// Not of the stream alone, as http2.Framer has it: a block that is not
		// decoded leaves the table out of step with the peer's.
		return nil, nil, http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return fragment[:len(fragment)-pad], rest, nil
}

// decode feeds one frame's fragment. A block that is far over the limit, or goes
// on after it was found wrong, is not worth the work, and ends the tunnel: the
// table would be out of step.
func (b *blockReader) decode(fragment []byte) error {
	if int64(len(fragment)) > 4*int64(b.left) || b.invalid != nil {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if _, err := b.hpack.Write(fragment); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	return nil
}

var (
	errFieldValue    = errors.New("invalid header field value")
	errFieldName     = errors.New("invalid header field name")
	errPseudoLate    = errors.New("pseudo-header field after a regular one")
	errPseudoUnknown = errors.New("unknown pseudo-header field")
	errPseudoTwice   = errors.New("pseudo-header field repeated")
	errPseudoMixed   = errors.New("pseudo-header fields of request and response mixed")
)

// emit takes one field from the decoder (RFC 9113 section 8.2.1).
func (b *blockReader) emit(f hpack.HeaderField) {
	if !httpguts.ValidHeaderFieldValue(f.Value) {
		b.invalid = errFieldValue
	}
	if strings.HasPrefix(f.Name, ":") {
		if b.regular {
			b.invalid = errPseudoLate
		}
	} else {
		b.regular = true
		if !validFieldName(f.Name) {
			b.invalid = errFieldName
		}
	}
	switch {
	case b.invalid != nil:
		b.hpack.SetEmitEnabled(false)
	case f.Size() > b.left:
		b.hpack.SetEmitEnabled(false)
		b.block.truncated = true
		b.left = 0
	default:
		b.left -= f.Size()
		b.block.fields = append(b.block.fields, f)
	}
}

// validFieldName reports whether name is a token in lower case.
func validFieldName(name string) bool {
	for _, r := range name {
		if !httpguts.IsTokenRune(r) || 'A' <= r && r <= 'Z' {
			return false
		}
	}
	return name != ""
}

// pseudosValid checks the pseudo-headers, which come first (RFC 9113 section 8.3).
func pseudosValid(fields []hpack.HeaderField) error {
	var request, response bool
	for i, f := range fields {
		if !f.IsPseudo() {
			break
		}
		switch f.Name {
		case ":method", ":path", ":scheme", ":authority", ":protocol":
			request = true
		case ":status":
			response = true
		default:
			return errPseudoUnknown
		}
		for _, g := range fields[:i] { // four at most
			if f.Name == g.Name {
				return errPseudoTwice
			}
		}
	}
	if request && response {
		return errPseudoMixed
	}
	return nil
}

// pseudo is the value of the pseudo-header called name, or "".
func (h *headerBlock) pseudo(name string) string {
	for _, f := range h.fields {
		if !f.IsPseudo() {
			break
		}
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// header are the fields after the pseudo-headers, for the caller to keep.
func (h *headerBlock) header() []Header {
	first := 0
	for first < len(h.fields) && h.fields[first].IsPseudo() {
		first++
	}
	if first == len(h.fields) {
		return nil
	}
	hs := make([]Header, 0, len(h.fields)-first)
	for _, f := range h.fields[first:] {
		hs = append(hs, Header{f.Name, f.Value})
	}
	return hs
}
