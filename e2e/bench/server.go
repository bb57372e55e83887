package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// The first byte of a connection says what the server does with it.
const (
	opUp      = 'u' // read to the end, then close
	opDown    = 'd' // write the pattern until the client half-closes, then close
	opPing    = 'p' // a 4-byte size follows; return every message of that size
	opConnect = 'c' // return one byte, wait for the end
	opStallUp = 'U' // never read again
	opCheck   = 'e' // an 8-byte size follows; read to the end, compare all, then write as much of the pattern and close
)

// loadServer is the far end of every path.
type loadServer struct {
	received atomic.Int64 // bytes of opUp
	sent     atomic.Int64 // bytes of opDown
	open     atomic.Int64 // connections being served

	mu      sync.Mutex
	errs    []error // what went wrong since the last "settle", at most a few
	stalled map[*net.TCPConn]bool
}

func newLoadServer() *loadServer { return &loadServer{stalled: make(map[*net.TCPConn]bool)} }

// counters are sums over all connections since the start.
type counters struct {
	At       int64 `json:"at"` // monotonic nanoseconds of this process
	Received int64 `json:"received"`
	Sent     int64 `json:"sent"`
}

func (s *loadServer) handle(do string, arg json.RawMessage) (any, error) {
	switch do {
	case "listen":
		addr, err := proc.DecodeArg[string](arg)
		if err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp4", addr)
		if err != nil {
			return nil, err
		}
		go s.accept(l)
		return l.Addr().String(), nil
	case "mark":
		return s.counters(), nil
	case "settle":
		return s.settle()
	case "abandon":
		s.abandon()
		return nil, nil
	}
	return proc.HandleCommon(do)
}

func (s *loadServer) counters() counters {
	return counters{At: monotonic(), Received: s.received.Load(), Sent: s.sent.Load()}
}

// settle waits until no connection is left and reports the final sums.
func (s *loadServer) settle() (counters, error) {
	deadline := time.Now().Add(settleTimeout)
	for s.open.Load() > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	left := s.open.Load()
	s.mu.Lock()
	err := errors.Join(s.errs...)
	s.errs = nil
	s.mu.Unlock()
	if left > 0 {
		err = errors.Join(err, fmt.Errorf("%d connections still open %s after the client closed them", left, settleTimeout))
	}
	return s.counters(), err
}

// settleTimeout bounds how long the ends of connections may take to come through.
const settleTimeout = 10 * time.Second

// abandon resets the stalled connections.
func (s *loadServer) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.stalled {
		c.SetLinger(0)
		c.Close()
	}
	clear(s.stalled)
}

func (s *loadServer) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.open.Add(1)
		go s.serve(c.(*net.TCPConn))
	}
}

func (s *loadServer) serve(c *net.TCPConn) {
	defer s.open.Add(-1)
	err := s.serveOp(c)
	if err == nil {
		return
	}
	s.mu.Lock()
	if len(s.errs) < 4 {
		s.errs = append(s.errs, err)
	}
	s.mu.Unlock()
}

func (s *loadServer) serveOp(c *net.TCPConn) error {
	op := make([]byte, 1)
	if _, err := io.ReadFull(c, op); err != nil {
		c.Close()
		if errors.Is(err, io.EOF) {
			return nil // a probe: connected and gone
		}
		return fmt.Errorf("read the operation: %w", err)
	}
	if op[0] == opStallUp {
		s.mu.Lock()
		s.stalled[c] = true
		s.mu.Unlock()
		return nil // abandon closes it
	}
	defer c.Close()
	switch op[0] {
	case opUp:
		return readPattern(c, &s.received)
	case opDown:
		return s.down(c)
	case opPing:
		return echo(c)
	case opConnect:
		if _, err := c.Write(op); err != nil {
			return fmt.Errorf("answer a new connection: %w", err)
		}
		c.Read(op) // until the client is gone, in either way
		return nil
	case opCheck:
		return serveCheck(c)
	}
	return fmt.Errorf("unknown operation %q", op)
}

// down writes until the client has closed its side.
func (s *loadServer) down(c *net.TCPConn) error {
	var ended atomic.Bool
	var reader sync.WaitGroup
	defer reader.Wait()
	defer c.CloseWrite()
	reader.Go(func() {
		io.Copy(io.Discard, c)
		ended.Store(true)
	})
	err := writePattern(c, &s.sent, ended.Load)
	if err != nil && ended.Load() {
		return nil // the client went away without reading on
	}
	return err
}

func echo(c *net.TCPConn) error {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return fmt.Errorf("read the message size: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size > loadChunk {
		return fmt.Errorf("message size %d is beyond %d", size, loadChunk)
	}
	message := make([]byte, size)
	for {
		if _, err := io.ReadFull(c, message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a message: %w", err)
		}
		if _, err := c.Write(message); err != nil {
			return fmt.Errorf("return a message: %w", err)
		}
	}
}

func serveCheck(c *net.TCPConn) error {
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return fmt.Errorf("read the size: %w", err)
	}
	size := int64(binary.BigEndian.Uint64(head[:]))
	if err := readWhole(c, size); err != nil {
		return fmt.Errorf("check upward: %w", err)
	}
	if err := writeWhole(c, size); err != nil {
		return fmt.Errorf("check downward: %w", err)
	}
	return nil
}
