package hbone

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// overpadded reports whether a HEADERS frame claims more padding than it has
// (RFC 9113 section 6.2).
func overpadded(p []byte) bool {
	fragment, _ := cutFrame(p)
	if p[4]&flagPadded == 0 || len(fragment) == 0 || binary.BigEndian.Uint32(p[5:])&maxStreamID == 0 {
		return false
	}
	pad := int(fragment[0])
	fragment = fragment[1:]
	if p[4]&flagPriority != 0 {
		if len(fragment) < 5 {
			return false
		}
		fragment = fragment[5:]
	}
	return pad > len(fragment)
}

// FuzzHeaderBlock holds blockReader against http2.Framer: of any sequence of
// HEADERS and CONTINUATION frames both make the same fields, or the same error.
// The dynamic table goes on from block to block.
func FuzzHeaderBlock(f *testing.F) {
	connect := appendConnect(nil, &Request{Authority: "10.0.0.1:80", Header: []Header{{"baggage", "service.name=x"}}})
	ok := appendStatus(nil, 200, nil)
	f.Add(append(block(connect), block(ok)...))
	f.Add(append(block(connect[:5], connect[5:9], connect[9:]), block(ok, nil)...))
	f.Add(block([]byte{0x82, 0x87, 0x84, 0x41, 1, 'a', 0x40, 1, 'A', 1, 'b'}))                        // upper case
	f.Add(block([]byte{0x40, 1, 'a', 1, 'b', 0x82}))                                                  // pseudo after regular
	f.Add(append(block([]byte{0x40, 1, 'a', 1, 'b', 0x00, 1, 'c', 1, '\n'}), block([]byte{0xbe})...)) // indexed before and beyond the invalid
	f.Add(block([]byte{0x82, 0x88}))                                                                  // request and status
	f.Add(block([]byte{0x88, 0x88}))                                                                  // twice
	f.Add(block([]byte{0x00, 2, ':', 'x', 0}))                                                        // unknown
	f.Add(block([]byte{0x3f, 0xff, 0xff, 0xff}))                                                      // table too large
	f.Add(block(appendFields(nil, []Header{{"a", strings.Repeat("x", 900)}, {"b", strings.Repeat("y", 200)}})))
	f.Add(block(appendFields(nil, []Header{{"a", strings.Repeat("x", 2000)}})))
	f.Add(block(appendFields(nil, []Header{{"a", strings.Repeat("x", 900)}, {"b", strings.Repeat("y", 200)}}), ok))
	f.Add([]byte{0, 1, 1, flagPadded | flagEndHeaders, 0, 0, 0, 1, 200})
	f.Add([]byte{0, 0, 4, 1, flagPriority | flagEndHeaders, 0, 0, 0, 1, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Contains(in, []byte("trailer")) {
			return // has a limit of its own there
		}
		const limit = 1024
		var b blockReader
		b.init(limit)
		var feed bytes.Reader
		framer := http2.NewFramer(io.Discard, &feed)
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		framer.MaxHeaderListSize = limit
		r := reader{}
		for len(in) >= frameHeaderLen {
			if in[3] != frameHeaders {
				return
			}
			n, err := r.wholeFrame(in)
			if n == 0 || err != nil {
				return
			}
			feed.Reset(in[:n])
			wantFrame, wantErr := framer.ReadFrame()
			h, err := b.read(in[:n])
			if overpadded(in) {
				if err != http2.ConnectionError(http2.ErrCodeProtocol) {
					t.Fatalf("more padding than frame: error %v", err)
				}
				return // http2.Framer goes on, with its table out of step
			}
			in = in[n:]
			if errorOf(err) != errorOf(wantErr) {
				t.Fatalf("error %v, http2.Framer has %v", err, wantErr)
			}
			if err != nil {
				var se http2.StreamError
				if !errors.As(err, &se) {
					return // the tunnel would have ended
				}
				continue
			}
			want := wantFrame.(*http2.MetaHeadersFrame)
			if h.id != want.StreamID || h.ended != want.StreamEnded() || h.truncated != want.Truncated ||
				h.priority != want.HasPriority() || h.depends != want.Priority.StreamDep || !slices.Equal(h.fields, want.Fields) {
				t.Fatalf("read %+v\nhttp2.Framer has %+v, %v", *h, want, want.Fields)
			}
			if h.pseudo(":status") != want.PseudoValue("status") || len(h.header()) != len(want.RegularFields()) {
				t.Fatalf("status %q and %d fields, http2.Framer has %q and %d",
					h.pseudo(":status"), len(h.header()), want.PseudoValue("status"), len(want.RegularFields()))
			}
		}
	})
}

// block makes a header block on stream 1, a frame for each part.
func block(parts ...[]byte) (out []byte) {
	for i, p := range parts {
		typ, flags := frameContinuation, byte(0)
		if i == 0 {
			typ = frameHeaders
		}
		if i == len(parts)-1 {
			flags = flagEndHeaders
		}
		out = appendFrameHeader(out, len(p), typ, flags, 1)
		out = append(out, p...)
	}
	return out
}

// errorOf is what of an error decides what becomes of the tunnel.
func errorOf(err error) string {
	var se http2.StreamError
	var ce http2.ConnectionError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &se):
		return "stream " + se.Code.String()
	case errors.As(err, &ce):
		return "connection " + http2.ErrCode(ce).String()
	}
	return "malformed"
}

// A block of another stream's CONTINUATION ends the tunnel.
func TestHeaderBlockOfTwoStreams(t *testing.T) {
	p := block(appendStatus(nil, 200, nil), nil)
	binary.BigEndian.PutUint32(p[len(p)-4:], 3)
	var b blockReader
	b.init(1024)
	if _, err := b.read(p); errorOf(err) != "connection PROTOCOL_ERROR" {
		t.Errorf("error %v, want a connection error", err)
	}
}

// What a block leaves behind is bounded.
func TestHeaderBlockKeepsLittle(t *testing.T) {
	var b blockReader
	b.init(64 << 10)
	var many []Header
	for range 1000 {
		many = append(many, Header{"a", "b"})
	}
	for _, hs := range [][]Header{many, {{"a", "b"}}} {
		if _, err := b.read(block(appendFields(nil, hs))); err != nil {
			t.Fatal(err)
		}
	}
	if n := cap(b.block.fields); n > 32 {
		t.Errorf("room for %d fields is kept after a block of one", n)
	}
}
