package hbone

import (
	"encoding/binary"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Frame types and flags of RFC 9113 section 6, as bytes on the wire.
const (
	frameData         = byte(http2.FrameData)
	frameHeaders      = byte(http2.FrameHeaders)
	frameRSTStream    = byte(http2.FrameRSTStream)
	frameSettings     = byte(http2.FrameSettings)
	framePing         = byte(http2.FramePing)
	frameGoAway       = byte(http2.FrameGoAway)
	frameWindowUpdate = byte(http2.FrameWindowUpdate)
	frameContinuation = byte(http2.FrameContinuation)

	flagEndStream  = byte(http2.FlagDataEndStream)
	flagPadded     = byte(http2.FlagDataPadded)
	flagEndHeaders = byte(http2.FlagHeadersEndHeaders)
	flagPriority   = byte(http2.FlagHeadersPriority)
	flagAck        = byte(http2.FlagSettingsAck)
)

const (
	minFrameSize  = 16 << 10 // what every peer takes (RFC 9113 section 4.2)
	maxWindow     = 1<<31 - 1
	defaultWindow = 65535 // of a connection, and of a stream before SETTINGS
	maxStreamID   = 1<<31 - 1
)

func putFrameHeader(b []byte, length int, typ, flags byte, id uint32) {
	_ = b[8]
	b[0], b[1], b[2] = byte(length>>16), byte(length>>8), byte(length)
	b[3], b[4] = typ, flags
	binary.BigEndian.PutUint32(b[5:], id)
}

func appendFrameHeader(b []byte, length int, typ, flags byte, id uint32) []byte {
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	putFrameHeader(b[len(b)-frameHeaderLen:], length, typ, flags, id)
	return b
}

func appendRSTStream(b []byte, id uint32, code http2.ErrCode) []byte {
	b = appendFrameHeader(b, 4, frameRSTStream, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindowUpdate(b []byte, id uint32, n int64) []byte {
	b = appendFrameHeader(b, 4, frameWindowUpdate, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func appendPing(b []byte, ack bool, data [8]byte) []byte {
	flags := byte(0)
	if ack {
		flags = flagAck
	}
	b = appendFrameHeader(b, 8, framePing, flags, 0)
	return append(b, data[:]...)
}

func appendGoAway(b []byte, last uint32, code http2.ErrCode, debug string) []byte {
	b = appendFrameHeader(b, 8+len(debug), frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	b = binary.BigEndian.AppendUint32(b, uint32(code))
	return append(b, debug...)
}

func appendSettings(b []byte, settings ...http2.Setting) []byte {
	b = appendFrameHeader(b, 6*len(settings), frameSettings, 0, 0)
	for _, s := range settings {
		b = binary.BigEndian.AppendUint16(b, uint16(s.ID))
		b = binary.BigEndian.AppendUint32(b, s.Val)
	}
	return b
}

// appendHeaders appends a header block as HEADERS and, where it is longer than
// a frame may be, CONTINUATION frames.
func appendHeaders(b []byte, id uint32, block []byte, end bool) []byte {
	typ, flags := frameHeaders, byte(0)
	if end {
		flags = flagEndStream
	}
	for {
		part := block[:min(len(block), minFrameSize)]
		block = block[len(part):]
		if len(block) == 0 {
			flags |= flagEndHeaders
		}
		b = appendFrameHeader(b, len(part), typ, flags, id)
		b = append(b, part...)
		if len(block) == 0 {
			return b
		}
		typ, flags = frameContinuation, 0
	}
}

// Header blocks are encoded without the dynamic table (RFC 7541 section 6.2.2),
// so that a block does not depend on those before it and can be made outside
// any lock, in any order.

// Indexes of the static table (RFC 7541 appendix A).
const (
	hpackAuthority = 1
	hpackMethod    = 2
	hpackStatus200 = 8
)

func appendConnect(b []byte, r *Request) []byte {
	b = appendIndexedName(b, hpackMethod, "CONNECT")
	b = appendIndexedName(b, hpackAuthority, r.Authority)
	return appendFields(b, r.Header)
}

func appendStatus(b []byte, status int, hs []Header) []byte {
	if status == 200 {
		b = append(b, 0x80|hpackStatus200)
	} else {
		b = appendIndexedName(b, hpackStatus200, string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)}))
	}
	return appendFields(b, hs)
}

func appendFields(b []byte, hs []Header) []byte {
	for _, h := range hs {
		b = append(b, 0) // literal without indexing, new name
		b = appendHpackString(b, h.Name)
		b = appendHpackString(b, h.Value)
	}
	return b
}

func appendIndexedName(b []byte, index byte, value string) []byte {
	b = append(b, index) // literal without indexing; all indexes used are below 15
	return appendHpackString(b, value)
}

func appendHpackString(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		b = appendHpackInt(b, 0x80, n)
		return hpack.AppendHuffmanString(b, s)
	}
	b = appendHpackInt(b, 0, uint64(len(s)))
	return append(b, s...)
}

// appendHpackInt appends n with a prefix of 7 bits (RFC 7541 section 5.1).
func appendHpackInt(b []byte, high byte, n uint64) []byte {
	if n < 127 {
		return append(b, high|byte(n))
	}
	b = append(b, high|127)
	for n -= 127; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}
