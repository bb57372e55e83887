package hbone

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

// A client that breaks a rule of RFC 9113 that puts the whole connection in
// doubt is told which by GOAWAY, and cut.
func TestServerEndsTheTunnelOf(t *testing.T) {
	raw := func(length int, typ http2.FrameType, flags http2.Flags, id uint32, payload ...byte) []byte {
		return append(appendFrameHeader(nil, length, byte(typ), byte(flags), id), payload...)
	}
	send := func(frames ...[]byte) func(*peer) {
		return func(p *peer) { p.conn.Write(bytes.Join(frames, nil)) }
	}
	connected := func(f func(*peer)) func(*peer) {
		return func(p *peer) {
			p.connect(1, "sink:1")
			p.wantStatus("an open stream", 1, "200")
			f(p)
		}
	}
	for _, tc := range []struct {
		name string
		send func(*peer)
		want http2.ErrCode
	}{
		{"a frame above MAX_FRAME_SIZE", send(raw(MaxFrame+1, http2.FrameData, 0, 1)), http2.ErrCodeFrameSize},
		{"DATA on stream 0", send(raw(1, http2.FrameData, 0, 0, 'x')), http2.ErrCodeProtocol},
		{"DATA on an idle stream", send(raw(1, http2.FrameData, 0, 7, 'x')), http2.ErrCodeProtocol},
		{"DATA on an even stream", send(raw(1, http2.FrameData, 0, 2, 'x')), http2.ErrCodeProtocol},
		{"RST_STREAM on an idle stream", send(raw(4, http2.FrameRSTStream, 0, 7, 0, 0, 0, 8)), http2.ErrCodeProtocol},
		{"WINDOW_UPDATE on an idle stream", send(raw(4, http2.FrameWindowUpdate, 0, 7, 0, 0, 0, 8)), http2.ErrCodeProtocol},
		{"a short RST_STREAM", connected(send(raw(3, http2.FrameRSTStream, 0, 1, 0, 0, 0))), http2.ErrCodeFrameSize},
		{"a PING of seven bytes", send(raw(7, http2.FramePing, 0, 0, 1, 2, 3, 4, 5, 6, 7)), http2.ErrCodeFrameSize},
		{"a PING on a stream", send(raw(8, http2.FramePing, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8)), http2.ErrCodeProtocol},
		{"a SETTINGS of five bytes", send(raw(5, http2.FrameSettings, 0, 0, 1, 2, 3, 4, 5)), http2.ErrCodeFrameSize},
		{"a SETTINGS ACK with payload", send(raw(6, http2.FrameSettings, http2.FlagSettingsAck, 0, 0, 4, 0, 0, 0, 0)), http2.ErrCodeFrameSize},
		{"an initial window of 2^31", send(raw(6, http2.FrameSettings, 0, 0, 0, 4, 0x80, 0, 0, 0)), http2.ErrCodeFlowControl},
		{"a MAX_FRAME_SIZE of 100", send(raw(6, http2.FrameSettings, 0, 0, 0, 5, 0, 0, 0, 100)), http2.ErrCodeProtocol},
		{"a connection window above 2^31-1", send(raw(4, http2.FrameWindowUpdate, 0, 0, 0x7f, 0xff, 0xff, 0xff)), http2.ErrCodeFlowControl},
		{"a connection WINDOW_UPDATE of 0", send(raw(4, http2.FrameWindowUpdate, 0, 0, 0, 0, 0, 0)), http2.ErrCodeProtocol},
		{"PUSH_PROMISE", connected(send(raw(4, http2.FramePushPromise, http2.FlagPushPromiseEndHeaders, 1, 0, 0, 0, 2))), http2.ErrCodeProtocol},
		{"padding longer than its frame", connected(send(raw(2, http2.FrameData, http2.FlagDataPadded, 1, 9, 0))), http2.ErrCodeProtocol},
		{"padding without a length", connected(send(raw(0, http2.FrameData, http2.FlagDataPadded, 1))), http2.ErrCodeFrameSize},
		{"HPACK rubbish", send(raw(3, http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, 0xff, 0xff, 0xff)), http2.ErrCodeCompression},
		{"a CONTINUATION out of place", send(raw(0, http2.FrameContinuation, http2.FlagContinuationEndHeaders, 1)), http2.ErrCodeProtocol},
		{"a header block interrupted", send(raw(0, http2.FrameHeaders, 0, 1), raw(8, http2.FramePing, 0, 0, make([]byte, 8)...)), http2.ErrCodeProtocol},
		{"a header block continued on another stream", send(raw(0, http2.FrameHeaders, 0, 1), raw(0, http2.FrameContinuation, http2.FlagContinuationEndHeaders, 3)), http2.ErrCodeProtocol},
		{"a header block without end", func(p *peer) {
			p.conn.Write(raw(1, http2.FrameHeaders, 0, 1, 0x82))
			for range maxContinuations + 10 {
				p.conn.Write(raw(1, http2.FrameContinuation, 0, 1, 0x82))
			}
		}, http2.ErrCodeEnhanceYourCalm},
		{"a header block of a megabyte", func(p *peer) {
			p.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 1, make([]byte, 1<<20))
		}, http2.ErrCodeEnhanceYourCalm},
		{"a stream id that goes back", func(p *peer) {
			p.connect(5, "sink:1")
			p.connect(3, "sink:1")
		}, http2.ErrCodeStreamClosed},
		{"an even stream id", func(p *peer) { p.connect(2, "sink:1") }, http2.ErrCodeProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, scripted)
			p := r.client()
			tc.send(p)
			p.wantGoAway(tc.name, tc.want)
			eventually(t, "the tunnel is forgotten", func() bool { return len(r.server.Stats()) == 0 })
		})
	}
}

// The longest header block that is taken, and then the next frame byte by byte:
// the reader has room to read on, waits for what is missing, and refuses the
// frame when its header is whole. A pipe takes a record when what came before
// it has been read; there is no bubble, for a reader that spins would hold it.
func TestHeaderBlockAtTheLimitDoesNotHoldTheReader(t *testing.T) {
	r := newBubble(t)
	block := make([]byte, maxControlFrame)
	putFrameHeader(block, maxControlFrame-frameHeaderLen, frameHeaders, 0, 1)
	next := appendFrameHeader(nil, 0, frameContinuation, flagEndHeaders, 1)
	begun := func() *peer {
		p := r.client()
		p.conn.SetDeadline(time.Now().Add(5 * time.Second))
		p.conn.Write(block)
		for i := range frameHeaderLen - 1 {
			if _, err := p.conn.Write(next[i : i+1]); err != nil {
				t.Errorf("the reader does not read on after a block of %d bytes and %d more: %v", len(block), i, err)
				break
			}
		}
		return p
	}
	p := begun()
	if !t.Failed() {
		go p.conn.Write(next[frameHeaderLen-1:])
		p.wantGoAway("a header block of more than is taken", http2.ErrCodeEnhanceYourCalm)
		go begun().drain() // which stays where it is
	}
	closed := make(chan struct{})
	go func() { defer close(closed); r.server.Close() }()
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Error("Close waits for a reader that is in the middle of a header block")
	}
}

func TestServerWantsThePreface(t *testing.T) {
	for name, send := range map[string]string{
		"HTTP/1.1":       "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"PING first":     http2.ClientPreface + string(appendPing(nil, false, [8]byte{})),
		"an ACK first":   http2.ClientPreface + string(appendFrameHeader(nil, 0, frameSettings, flagAck, 0)),
		"wrong at last":  http2.ClientPreface[:20] + "xxxx" + "xxxxxxxxxxxxxxxx",
		"HEADERS before": http2.ClientPreface + string(appendHeaders(nil, 1, []byte{0x82}, true)),
	} {
		t.Run(name, func(t *testing.T) {
			p := newRig(t, scripted).silent()
			io.WriteString(p.conn, send)
			p.wantGoAway(name, http2.ErrCodeProtocol)
		})
	}
}

// The preface counts to the handshake: a client that holds it back does not
// hold a connection for longer than HandshakeTimeout.
func TestServerWaitsNotForeverForThePreface(t *testing.T) {
	for name, send := range map[string]string{
		"nothing":  "",
		"a part":   http2.ClientPreface[:10],
		"no frame": http2.ClientPreface,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newRig(t, scripted, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
				sc.Limits.HandshakeTimeout = 200 * time.Millisecond
			}).silent()
			io.WriteString(p.conn, send)
			p.conn.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := io.Copy(io.Discard, p.conn); isTimeout(err) {
				t.Fatal("still connected 5 s later, with a HandshakeTimeout of 0.2 s")
			}
		})
	}
}

// A client whose mistake concerns one stream loses that stream; the others do
// not notice.
func TestServerResetsTheStreamOf(t *testing.T) {
	fields := func(fields ...string) func(*peer) {
		return func(p *peer) { p.headers(1, false, fields...) }
	}
	connected := func(f func(*peer)) func(*peer) {
		return func(p *peer) {
			p.connect(1, "hold:1")
			p.wantStatus("an open stream", 1, "200")
			f(p)
		}
	}
	for _, tc := range []struct {
		name string
		send func(*peer)
		want http2.ErrCode
	}{
		{"CONNECT with a path", fields(":method", "CONNECT", ":authority", "echo:1", ":path", "/"), http2.ErrCodeProtocol},
		{"CONNECT with a scheme", fields(":method", "CONNECT", ":authority", "echo:1", ":scheme", "https"), http2.ErrCodeProtocol},
		{"extended CONNECT", fields(":method", "CONNECT", ":authority", "echo:1", ":scheme", "https", ":path", "/", ":protocol", "websocket"), http2.ErrCodeProtocol},
		{"CONNECT without authority", fields(":method", "CONNECT"), http2.ErrCodeProtocol},
		{"CONNECT with an empty authority", fields(":method", "CONNECT", ":authority", ""), http2.ErrCodeProtocol},
		{"two methods", fields(":method", "CONNECT", ":method", "CONNECT", ":authority", "echo:1"), http2.ErrCodeProtocol},
		{"two authorities", fields(":method", "CONNECT", ":authority", "echo:1", ":authority", "sink:1"), http2.ErrCodeProtocol},
		{"no method", fields(":authority", "echo:1"), http2.ErrCodeProtocol},
		{"a pseudo-header of an answer", fields(":method", "CONNECT", ":authority", "echo:1", ":status", "200"), http2.ErrCodeProtocol},
		{"an unknown pseudo-header", fields(":method", "CONNECT", ":authority", "echo:1", ":magic", "1"), http2.ErrCodeProtocol},
		{"a pseudo-header late", fields(":method", "CONNECT", "x", "y", ":authority", "echo:1"), http2.ErrCodeProtocol},
		{"an upper-case name", fields(":method", "CONNECT", ":authority", "echo:1", "X-Y", "z"), http2.ErrCodeProtocol},
		{"a line break in a value", fields(":method", "CONNECT", ":authority", "echo:1", "x", "a\r\nb"), http2.ErrCodeProtocol},
		{"a connection header", fields(":method", "CONNECT", ":authority", "echo:1", "connection", "close"), http2.ErrCodeProtocol},
		{"te: gzip", fields(":method", "CONNECT", ":authority", "echo:1", "te", "gzip"), http2.ErrCodeProtocol},
		{"a stream that depends on itself", func(p *peer) {
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true,
				BlockFragment: p.block(":method", "CONNECT", ":authority", "echo:1"), Priority: http2.PriorityParam{StreamDep: 1}})
		}, http2.ErrCodeProtocol},
		{"trailers", connected(func(p *peer) { p.headers(1, true, "x", "y") }), http2.ErrCodeProtocol},
		{"a second CONNECT on the stream", connected(func(p *peer) { p.connect(1, "echo:1") }), http2.ErrCodeProtocol},
		{"a window above 2^31-1", connected(func(p *peer) { p.WriteWindowUpdate(1, maxWindow) }), http2.ErrCodeFlowControl},
		{"a WINDOW_UPDATE of 0", connected(func(p *peer) {
			p.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, make([]byte, 4))
		}), http2.ErrCodeProtocol},
		{"DATA beyond the window", connected(func(p *peer) {
			p.WriteData(1, false, make([]byte, InitialStreamWindow))
			p.WriteData(1, false, []byte{0})
		}), http2.ErrCodeFlowControl},
		{"DATA after END_STREAM", connected(func(p *peer) {
			p.WriteData(1, true, nil)
			p.WriteData(1, false, []byte{0})
		}), http2.ErrCodeStreamClosed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newRig(t, scripted).client()
			tc.send(p)
			p.wantReset(tc.name, 1, tc.want)
			p.alive(tc.name, 3)
		})
	}
}

func TestServerRefusesStreamsAboveTheLimit(t *testing.T) {
	p := newRig(t, scripted, maxStreams(3)).client()
	for id := uint32(1); id <= 5; id += 2 {
		p.connect(id, "echo:1")
		p.wantStatus("within the limit", id, "200")
	}
	p.connect(7, "echo:1")
	p.wantReset("one above MAX_CONCURRENT_STREAMS", 7, http2.ErrCodeRefusedStream)
	p.WriteData(3, true, []byte("bye"))
	p.wantData("the streams that are open go on", 3, 3)
	// A slot is free when the handler has returned, which nobody tells us.
	for id := uint32(9); ; id += 2 {
		p.connect(id, "echo:1")
		again := false
		p.until("a slot is free again", func(f http2.Frame) bool {
			_, again = f.(*http2.RSTStreamFrame)
			return f.Header().StreamID == id
		})
		if !again {
			return
		}
	}
}

// A reset buys no work: handlers that still run count against the limit.
func TestResetStreamsHoldTheirSlotUntilTheirHandlerReturns(t *testing.T) {
	release := make(chan struct{})
	p := newRig(t, scripted, maxStreams(2), func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
		inner := sc.Handler
		sc.Handler = func(ctx context.Context, s *Stream) {
			if s.Request().Authority == "slow:1" {
				<-release
				return
			}
			inner(ctx, s)
		}
	}).client()
	for _, id := range []uint32{1, 3} {
		p.connect(id, "slow:1")
		p.WriteRSTStream(id, http2.ErrCodeCancel)
	}
	p.connect(5, "echo:1")
	p.wantReset("both slots are held by handlers at work", 5, http2.ErrCodeRefusedStream)
	close(release)
}

// Frames for a stream that this end has reset may have been on their way.
func TestServerIgnoresWhatWasOnItsWay(t *testing.T) {
	p := newRig(t, scripted).client()
	p.connect(1, "refuse:1")
	p.wantStatus("refused", 1, "503")
	p.wantReset("and no more wanted", 1, http2.ErrCodeNo)
	p.WriteData(1, false, []byte("too late"))
	p.WriteWindowUpdate(1, 100)
	p.WriteData(1, true, nil)
	p.WriteRSTStream(1, http2.ErrCodeCancel)
	p.alive("after frames for a stream that was refused", 3)
}

// After the last GOAWAY, frames of streams that came too late are no offence.
func TestServerForgivesStreamsAfterItsGoAway(t *testing.T) {
	r := newRig(t, scripted)
	p := r.client()
	p.connect(1, "echo:1")
	p.wantStatus("a stream that stays", 1, "200")
	ended := make(chan error, 1)
	ctx, cancel := timeout(10 * time.Second)
	defer cancel()
	go func() { ended <- r.server.Shutdown(ctx) }()
	lasts := []uint32{maxStreamID, 1}
	for _, last := range lasts {
		p.until("GOAWAY, announced and then final", func(f http2.Frame) bool {
			switch f := f.(type) {
			case *http2.PingFrame:
				p.WritePing(true, f.Data)
			case *http2.GoAwayFrame:
				if f.LastStreamID != last {
					t.Errorf("GOAWAY with last stream %d, want %d", f.LastStreamID, last)
				}
				return true
			}
			return false
		})
	}
	p.connect(3, "echo:1")
	p.WriteData(3, false, []byte("sent before the GOAWAY was read"))
	p.WriteWindowUpdate(3, 10)
	p.WriteRSTStream(3, http2.ErrCodeCancel)
	p.WriteData(1, true, []byte("still here"))
	if got := p.wantData("the stream below the last id goes on", 1, 10); string(got) != "still here" {
		t.Errorf("echo was %q", got)
	}
	p.await(func(f http2.Frame) bool { // the server asks whether everything has been read
		if f, ok := f.(*http2.PingFrame); ok && !f.IsAck() {
			p.WritePing(true, f.Data)
		}
		return false
	})
	if err := <-ended; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// Padding takes window as payload does, and is given back although nobody takes it.
func TestPaddingIsReturnedAsCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newBubble(t).client()
		p.conn.SetDeadline(noDeadline)
		p.connect(1, "echo:1")
		p.wantStatus("an open stream", 1, "200")
		frame := make([]byte, 256) // 255 of padding and its length
		frame[0] = 255
		window := int64(InitialStreamWindow)
		// Three windows of it, as far as the server lets us, and few enough in a
		// second not to be a flood.
		for n := 1; n <= 3*InitialStreamWindow/len(frame); n++ {
			for window < int64(len(frame)) {
				p.until("credit for padding alone", func(f http2.Frame) bool {
					u, ok := f.(*http2.WindowUpdateFrame)
					if ok && u.StreamID == 1 {
						window += int64(u.Increment)
					}
					return ok && u.StreamID == 1
				})
			}
			p.WriteRawFrame(http2.FrameData, http2.FlagDataPadded, 1, frame)
			window -= int64(len(frame))
			if n%(maxEmptyDataPerSecond/2) == 0 {
				time.Sleep(2 * time.Second)
			}
		}
		p.WriteDataPadded(1, true, []byte("payload"), make([]byte, 100))
		if got := p.wantData("the payload among the padding", 1, 7); string(got) != "payload" {
			t.Errorf("echo was %q", got)
		}
	})
}

// A frame that stops in the middle is a cut, wherever it stops.
func TestServerSurvivesTruncatedFrames(t *testing.T) {
	r := newRig(t, scripted)
	whole := appendHeaders(nil, 1, appendConnect(nil, &Request{Authority: "echo:1"}), false)
	whole = append(whole, appendFrameHeader(nil, 5, frameData, 0, 1)...)
	whole = append(whole, "hello"...)
	whole = appendPing(whole, false, [8]byte{})
	for n := range len(whole) {
		p := r.client()
		p.conn.Write(whole[:n])
		p.conn.Close()
	}
	eventually(t, "no tunnel is left", func() bool { return len(r.server.Stats()) == 0 })
}

// A peer that asks and does not read the answers is cut before they pile up.
func TestAnswersThatAreNotReadAreBounded(t *testing.T) {
	r := newRig(t, scripted)
	p := r.client()
	p.connect(1, "source:1")
	p.wantStatus("an open stream", 1, "200")
	// Streams that are gone are answered by RST_STREAM, refused ones by 400:
	// as much as the limits of a second allow, for a few of them.
	frame := binary.BigEndian.AppendUint64(appendFrameHeader(nil, 8, framePing, 0, 0), 1)
	for range 5 {
		for range maxPingsPerSecond - 10 {
			if _, err := p.conn.Write(frame); err != nil {
				return
			}
		}
		r.server.mu.Lock()
		for c := range r.server.conns {
			c.w.mu.Lock()
			if n := len(c.w.prio); n > maxControl {
				t.Errorf("%d bytes of answers wait for a peer that does not read", n)
			}
			c.w.mu.Unlock()
		}
		r.server.mu.Unlock()
	}
}
