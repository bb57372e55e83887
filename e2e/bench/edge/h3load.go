package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// quicConfig never pings: an idle connection is to be idle.
func quicConfig() *quic.Config {
	return &quic.Config{
		MaxIdleTimeout: 2 * time.Minute, HandshakeIdleTimeout: 10 * time.Second,
		InitialStreamReceiveWindow: 4 << 20, MaxStreamReceiveWindow: 16 << 20,
		InitialConnectionReceiveWindow: 16 << 20, MaxConnectionReceiveWindow: 64 << 20,
	}
}

// h3Order makes small requests on Conns connections, one at a time on each.
type h3Order struct {
	Addr           string
	Conns          int
	Warm, Duration time.Duration
}

type h3Result struct {
	Ops, Failed int64
	Elapsed     time.Duration
	P50, P99    float64 // µs
}

// An h3Load speaks HTTP/3 with requests that are encoded once and answers of which only the status is looked at, on quic-go's
// bare streams: a whole client would cost more than the server, and would be what is measured.
type h3Load struct {
	request   []byte
	recording atomic.Bool
	stopped   atomic.Bool
	failed    atomic.Int64
	lastError atomic.Pointer[error]
}

func loadH3(o h3Order) (h3Result, error) {
	l := &h3Load{request: requestFrame(o.Addr)}
	conns, sockets, err := openH3(o.Addr, o.Conns)
	defer func() {
		for _, c := range conns {
			c.CloseWithError(0x100, "") // H3_NO_ERROR
		}
		for _, s := range sockets {
			s.Close()
		}
	}()
	if err != nil {
		return h3Result{}, err
	}
	latencies := make([][]uint32, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() { latencies[i] = l.run(c) })
	}
	time.Sleep(o.Warm)
	l.recording.Store(true)
	begun := time.Now()
	time.Sleep(o.Duration)
	l.recording.Store(false)
	elapsed := time.Since(begun)
	l.stopped.Store(true)
	wg.Wait()
	all := slices.Concat(latencies...)
	slices.Sort(all)
	result := h3Result{Ops: int64(len(all)), Failed: l.failed.Load(), Elapsed: elapsed}
	if len(all) == 0 {
		err := errors.New("no request was answered")
		if last := l.lastError.Load(); last != nil {
			err = *last
		}
		return result, err
	}
	result.P50, result.P99 = stats.Percentile(all, 0.5)/1e3, stats.Percentile(all, 0.99)/1e3
	return result, nil
}

// openH3 opens connections, many to a socket.
func openH3(addr string, n int) (conns []*quic.Conn, sockets []*quic.Transport, err error) {
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		return nil, nil, err
	}
	for range min(n, 16) {
		s, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			return nil, sockets, err
		}
		sockets = append(sockets, &quic.Transport{Conn: s})
	}
	conns = make([]*quic.Conn, n)
	errs := make([]error, n)
	turn := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			turn <- struct{}{}
			conns[i], errs[i] = openOneH3(sockets[i%len(sockets)], to)
			<-turn
		})
	}
	wg.Wait()
	conns = slices.DeleteFunc(conns, func(c *quic.Conn) bool { return c == nil })
	return conns, sockets, errors.Join(errs...)
}

func openOneH3(s *quic.Transport, to net.Addr) (*quic.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	c, err := s.Dial(ctx, to, clientTLS(http3.NextProtoH3), quicConfig())
	if err != nil {
		return nil, err
	}
	control, err := c.OpenUniStream()
	if err == nil {
		_, err = control.Write([]byte{0x00, 0x04, 0x00}) // a control stream with empty SETTINGS
	}
	return c, err
}

func (l *h3Load) run(c *quic.Conn) (latencies []uint32) {
	buf := make([]byte, 2048)
	for !l.stopped.Load() {
		begun := time.Now()
		err := l.exchange(c, buf)
		took := time.Since(begun)
		if l.stopped.Load() {
			return latencies
		}
		if err != nil {
			l.failed.Add(1)
			l.lastError.Store(&err)
			if c.Context().Err() != nil {
				return latencies
			}
			continue
		}
		if l.recording.Load() {
			latencies = append(latencies, uint32(min(took, 4*time.Second)))
		}
	}
	return latencies
}

func (l *h3Load) exchange(c *quic.Conn, buf []byte) error {
	ctx, cancel := context.Background(), func() {}
	if c.Context().Err() != nil {
		return context.Cause(c.Context())
	}
	defer cancel()
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Write(l.request); err != nil {
		return err
	}
	s.Close()
	total := 0
	for {
		n, err := s.Read(buf[total:])
		total += n
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if total == len(buf) {
			return errors.New("an answer of more than 2 KiB is not the backend's")
		}
	}
	return checkAnswer(buf[:total])
}

// status200 is ":status: 200" by the static table of RFC 9204, appendix A, after the prefix of a block that uses no other.
var status200 = []byte{0x00, 0x00, 0xd9}

// checkAnswer wants a HEADERS frame with status 200 and the body.
func checkAnswer(p []byte) error {
	head, rest, err := cutFrame(p, 0x01)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(head, status200) {
		return fmt.Errorf("the answer's header % x does not begin with status 200", head[:min(len(head), 16)])
	}
	if !bytes.HasSuffix(rest, smallBody[len(smallBody)-16:]) {
		return errors.New("the answer's body is not the backend's")
	}
	return nil
}

// cutFrame takes the first frame of p, which must be of this type, and shorter than 16 KiB.
func cutFrame(p []byte, kind byte) (frame, rest []byte, err error) {
	if len(p) < 3 || p[0] != kind {
		return nil, nil, errors.New("the answer does not begin with a HEADERS frame")
	}
	length, at := int(p[1]), 2
	if p[1]&0xc0 == 0x40 {
		length, at = int(p[1]&0x3f)<<8|int(p[2]), 3
	}
	if len(p) < at+length {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return p[at : at+length], p[at+length:], nil
}

// requestFrame is a HEADERS frame of "GET / HTTP/3" by the static table alone.
func requestFrame(authority string) []byte {
	block := []byte{0x00, 0x00, 0xd1 /* :method: GET */, 0xd7 /* :scheme: https */, 0xc1 /* :path: / */, 0x50 /* :authority: */, byte(len(authority))}
	block = append(block, authority...)
	return append([]byte{0x01, byte(len(block))}, block...)
}
