package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// Frame types and flags of RFC 9113 section 6, as bytes on the wire.
const (
	frameData           = byte(http2.FrameData)
	frameHeaders        = byte(http2.FrameHeaders)
	framePriority       = byte(http2.FramePriority)
	frameRSTStream      = byte(http2.FrameRSTStream)
	frameSettings       = byte(http2.FrameSettings)
	framePushPromise    = byte(http2.FramePushPromise)
	framePing           = byte(http2.FramePing)
	frameGoAway         = byte(http2.FrameGoAway)
	frameWindowUpdate   = byte(http2.FrameWindowUpdate)
	frameContinuation   = byte(http2.FrameContinuation)
	framePriorityUpdate = byte(0x10) // RFC 9218 section 7.1

	flagEndStream  = byte(http2.FlagDataEndStream)
	flagPadded     = byte(http2.FlagDataPadded)
	flagEndHeaders = byte(http2.FlagHeadersEndHeaders)
	flagPriority   = byte(http2.FlagHeadersPriority)
	flagAck        = byte(http2.FlagSettingsAck)
)

const (
	frameHeaderLen = 9
	maxFrame       = 16 << 10 // payload, both ways: what every peer takes (RFC 9113 section 4.2)
	maxWindow      = 1<<31 - 1
	defaultWindow  = 65535 // of a connection, and of a stream before SETTINGS
	maxStreamID    = 1<<31 - 1
)

// Settings that x/net/http2 has no name for.
const (
	settingConnectProtocol = http2.SettingEnableConnectProtocol // RFC 8441
	settingNoPriorities    = http2.SettingID(0x9)               // RFC 9218 section 2.1
)

func putFrameHeader(b []byte, length int, typ, flags byte, id uint32) {
	_ = b[8]
	b[0], b[1], b[2] = byte(length>>16), byte(length>>8), byte(length)
	b[3], b[4] = typ, flags
	binary.BigEndian.PutUint32(b[5:], id)
}

func appendFrameHeader(b []byte, length int, typ, flags byte, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), typ, flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func appendRSTStream(b []byte, id uint32, code http2.ErrCode) []byte {
	b = appendFrameHeader(b, 4, frameRSTStream, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

func appendWindowUpdate(b []byte, id uint32, n int64) []byte {
	b = appendFrameHeader(b, 4, frameWindowUpdate, 0, id)
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

func appendPing(b []byte, flags byte, data [8]byte) []byte {
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

// finishHeaders makes frames of the header block that lies in b behind room for a
// frame header at start: one HEADERS and, where it is longer than a frame may be,
// CONTINUATION.
func finishHeaders(b []byte, start int, id uint32, end bool) []byte {
	flags := flagEndHeaders
	if end {
		flags |= flagEndStream
	}
	length := len(b) - start - frameHeaderLen
	if length <= maxFrame {
		putFrameHeader(b[start:], length, frameHeaders, flags, id)
		return b
	}
	rest := append([]byte(nil), b[start+frameHeaderLen+maxFrame:]...)
	b = b[:start+frameHeaderLen+maxFrame]
	putFrameHeader(b[start:], maxFrame, frameHeaders, flags&^flagEndHeaders, id)
	for len(rest) > 0 {
		n := min(len(rest), maxFrame)
		flags = 0
		if n == len(rest) {
			flags = flagEndHeaders
		}
		b = appendFrameHeader(b, n, frameContinuation, flags, id)
		b = append(b, rest[:n]...)
		rest = rest[n:]
	}
	return b
}

// frameLength is the length of the payload of the frame that begins at p.
func frameLength(p []byte) int { return int(p[0])<<16 | int(p[1])<<8 | int(p[2]) }

func streamID(p []byte) uint32 { return binary.BigEndian.Uint32(p) & maxStreamID }
