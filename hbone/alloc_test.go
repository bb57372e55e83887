package hbone

import (
	"context"
	"io"
	"runtime"
	"testing"

	"golang.org/x/net/http2"
)

// What a new stream and a frame cost in allocations. The figures are those of
// one end: the other end is a peer that allocates nothing, because its frames
// are made beforehand.

// BenchmarkNewStreamClient opens, uses and ends streams against a peer that
// answers with bytes made beforehand.
func BenchmarkNewStreamClient(b *testing.B) {
	pool, target := strangeServer(b, PoolConfig{}, func(_ int, p *peer) {
		p.conn.SetDeadline(noDeadline)
		p.greet(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 100})
		ok := appendStatus(nil, 200, nil)
		var out [64]byte
		serveRawFrames(p, func(typ, flags byte, id uint32) []byte {
			switch {
			case typ == frameHeaders:
				return appendHeaders(out[:0], id, ok, false)
			case typ == frameData && flags&flagEndStream != 0:
				return appendFrameHeader(out[:0], 0, frameData, flagEndStream, id)
			}
			return nil
		})
	})
	req := Request{Authority: "10.0.0.1:80", Header: []Header{{"baggage", "service.name=x"}, {"traceparent", NewTraceparent()}}}
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		s, err := pool.Dial(context.Background(), target, req)
		if err != nil {
			b.Fatal(err)
		}
		s.CloseWrite()
		if _, err := s.Read(buf); err != io.EOF {
			b.Fatal(err)
		}
		s.Close()
	}
}

// serveRawFrames answers frames without allocating.
func serveRawFrames(p *peer, answer func(typ, flags byte, id uint32) []byte) {
	in := make([]byte, 64<<10)
	n := 0
	for {
		m, err := p.conn.Read(in[n:])
		if err != nil {
			return
		}
		n += m
		at := 0
		for n-at >= frameHeaderLen {
			h := in[at:]
			length := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
			if n-at < frameHeaderLen+length {
				break
			}
			id := uint32(h[5])<<24 | uint32(h[6])<<16 | uint32(h[7])<<8 | uint32(h[8])
			if out := answer(h[3], h[4], id); len(out) > 0 {
				if _, err := p.conn.Write(out); err != nil {
					return
				}
			}
			at += frameHeaderLen + length
		}
		n = copy(in, in[at:n])
	}
}

// BenchmarkNewStreamServer is the same for the server.
func BenchmarkNewStreamServer(b *testing.B) {
	r := newRig(b, func(_ *rig, _ *PoolConfig, sc *ServerConfig) {
		sc.Handler = func(_ context.Context, s *Stream) {
			var buf [1]byte
			s.Accept()
			s.Read(buf[:])
			s.CloseWrite()
		}
	})
	p := r.silent()
	p.conn.SetDeadline(noDeadline)
	p.conn.Write(appendSettings([]byte(http2.ClientPreface)))
	block := appendConnect(nil, &Request{Authority: "10.0.0.1:80", Header: []Header{{"baggage", "service.name=x"}, {"traceparent", NewTraceparent()}}})
	ended := make(chan struct{}, 1)
	go serveRawFrames(p, func(typ, flags byte, _ uint32) []byte {
		if typ == frameData && flags&flagEndStream != 0 {
			ended <- struct{}{}
		}
		return nil
	})
	var out []byte
	id := uint32(1)
	b.ReportAllocs()
	for b.Loop() {
		out = appendHeaders(out[:0], id, block, false)
		out = appendFrameHeader(out, 0, frameData, flagEndStream, id)
		id += 2
		if _, err := p.conn.Write(out); err != nil {
			b.Fatal(err)
		}
		<-ended
	}
	p.conn.Close()
}

// Frames of a stream that is open allocate nothing, at either end and in either
// direction.
func TestNoAllocationPerFrame(t *testing.T) {
	r := newRig(t, scripted)
	s, err := r.pool.Dial(t.Context(), r.target, Request{Authority: "echo:1"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, size := range []int{64, 40_000} {
		out, in := make([]byte, size), make([]byte, size)
		round := func() {
			if _, err := s.Write(out); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, in); err != nil {
				t.Fatal(err)
			}
		}
		for range 500 {
			round() // pools fill, windows grow
		}
		const rounds = 500
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range rounds {
			round()
		}
		runtime.ReadMemStats(&after)
		per := float64(after.Mallocs-before.Mallocs) / rounds
		t.Logf("%d bytes there and back: %.2f allocations", size, per)
		// crypto/tls allocates once for each record that it reads; the race
		// detector drops some of what pools are given, on purpose.
		records := 2 * (size + recordSize - 1) / recordSize
		if limit := float64(max(2, records)) + 0.5; !raceEnabled && per > limit {
			t.Errorf("%.2f allocations for %d bytes there and back, want at most %.1f", per, size, limit)
		}
	}
}
