package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	openAtOnce  = 64 // connections being opened at a time
)

// openAll opens the connections of a load and tells the server what each is for.
// Idle ones have had their ping when it returns. The caller closes them; on an error none is left open.
func openAll(target string, l load) ([]*net.TCPConn, error) {
	conns := make([]*net.TCPConn, l.Count)
	errs := make([]error, openAtOnce)
	var workers sync.WaitGroup
	for w := range openAtOnce {
		workers.Go(func() {
			for i := w; i < l.Count && errs[w] == nil; i += openAtOnce {
				conns[i], errs[w] = open(target, l)
			}
		})
	}
	workers.Wait()
	for _, err := range errs {
		if err == nil {
			continue
		}
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, err // the others are most likely the same
	}
	return conns, nil
}

func open(target string, l load) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", target, dialTimeout)
	if err != nil {
		return nil, err
	}
	conn := c.(*net.TCPConn)
	switch l.Kind {
	case kindUp:
		_, err = conn.Write([]byte{opUp})
	case kindDown, kindStallDown:
		_, err = conn.Write([]byte{opDown})
	case kindStallUp:
		_, err = conn.Write([]byte{opStallUp})
	case kindPing:
		_, err = conn.Write(pingHeader(l.Size))
	case kindIdle:
		if _, err = conn.Write(pingHeader(l.Size)); err == nil {
			err = ping(conn, 0, make([]byte, l.Size), make([]byte, l.Size))
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func pingHeader(size int) []byte {
	return binary.BigEndian.AppendUint32([]byte{opPing}, uint32(size))
}

// ping sends message number seq and waits for it to come back; answer is scratch of the same size.
func ping(conn net.Conn, seq uint64, message, answer []byte) error {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], seq)
	copy(message, number[:])
	if _, err := conn.Write(message); err != nil {
		return fmt.Errorf("send message %d: %w", seq, err)
	}
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("wait for the answer to message %d: %w", seq, err)
	}
	if !bytes.Equal(message, answer) {
		return fmt.Errorf("message %d came back changed", seq)
	}
	return nil
}

func (r *loadRun) pingLoop(conn *net.TCPConn, size int) {
	defer conn.Close()
	message, answer := make([]byte, size), make([]byte, size)
	copy(message, pattern)
	var rec record
	for seq := uint64(0); !r.stopping.Load(); seq++ {
		begin := time.Now()
		if err := ping(conn, seq, message, answer); err != nil {
			r.fail(err)
			return
		}
		r.ops.Add(1)
		rec.add(r.recording.Load(), time.Since(begin))
	}
	r.keep(rec)
	r.fail(finish(conn))
}

func (r *loadRun) connectLoop(target string) {
	var rec record
	defer func() { r.keep(rec) }()
	dialer := net.Dialer{Timeout: dialTimeout}
	b := make([]byte, 1)
	for !r.stopping.Load() {
		begin := time.Now()
		if err := connectOnce(&dialer, target, b); err != nil {
			r.fail(err)
			return
		}
		r.ops.Add(1)
		rec.add(r.recording.Load(), time.Since(begin))
	}
}

func connectOnce(dialer *net.Dialer, target string, b []byte) error {
	conn, err := dialer.Dial("tcp4", target)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(settleTimeout))
	b[0] = opConnect
	if _, err := conn.Write(b); err != nil {
		return fmt.Errorf("first byte: %w", err)
	}
	if _, err := io.ReadFull(conn, b); err != nil {
		return fmt.Errorf("answer to the first byte: %w", err)
	}
	return nil
}

// record is one connection's share of the latest record.
type record struct {
	number    int64
	latencies []uint32 // nanoseconds, saturating at four seconds, which no case measures
}

// add takes note of an operation that ended while record number was being made; 0 is none.
func (rec *record) add(number int64, latency time.Duration) {
	if number == 0 {
		return
	}
	if number != rec.number {
		rec.number, rec.latencies = number, rec.latencies[:0]
	}
	rec.latencies = append(rec.latencies, uint32(min(latency, math.MaxUint32)))
}

func (r *loadRun) keep(rec record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rec.number == r.records {
		r.latencies = append(r.latencies, rec.latencies...)
	}
}

// checkOrder asks for one exchange of Size bytes each way, upward first, every byte compared.
type checkOrder struct {
	Target string `json:"target"`
	Size   int64  `json:"size"`
}

// check sends, half-closes, and wants as much back: it fails on a path that loses, changes or repeats a byte or drops a half-close.
func check(order checkOrder) error {
	c, err := net.DialTimeout("tcp4", order.Target, dialTimeout)
	if err != nil {
		return err
	}
	conn := c.(*net.TCPConn)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(3 * settleTimeout))
	if _, err := conn.Write(binary.BigEndian.AppendUint64([]byte{opCheck}, uint64(order.Size))); err != nil {
		return err
	}
	if err := writeWhole(conn, order.Size); err != nil {
		return fmt.Errorf("upward: %w", err)
	}
	if err := readWhole(conn, order.Size); err != nil {
		return fmt.Errorf("downward, after the half-close: %w", err)
	}
	return nil
}
