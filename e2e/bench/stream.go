package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

var processStart = time.Now()

// monotonic is nanoseconds since the process started.
func monotonic() int64 { return int64(time.Since(processStart)) }

// writePattern writes the pattern until stop reports true, and counts.
func writePattern(c net.Conn, sent *atomic.Int64, stop func() bool) error {
	for offset := int64(0); !stop(); {
		n, err := c.Write(patternAt(offset, loadChunk))
		offset += int64(n)
		sent.Add(int64(n))
		if err != nil {
			return fmt.Errorf("write at offset %d: %w", offset, err)
		}
	}
	return nil
}

// readPattern reads to the end, samples the bytes and counts them.
func readPattern(c net.Conn, received *atomic.Int64) error {
	buf := make([]byte, loadChunk)
	for offset := int64(0); ; {
		n, err := c.Read(buf)
		if n > 0 {
			if err := checkPattern(buf[:n], offset, false); err != nil {
				return err
			}
			offset += int64(n)
			received.Add(int64(n))
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read at offset %d: %w", offset, err)
		}
	}
}

// writeWhole writes size bytes of the pattern and ends the direction.
func writeWhole(c *net.TCPConn, size int64) error {
	for offset := int64(0); offset < size; {
		n, err := c.Write(patternAt(offset, int(min(loadChunk, size-offset))))
		offset += int64(n)
		if err != nil {
			return fmt.Errorf("write at offset %d of %d: %w", offset, size, err)
		}
	}
	return c.CloseWrite()
}

// readWhole reads to the end, compares every byte, and wants size of them.
func readWhole(c *net.TCPConn, size int64) error {
	buf := make([]byte, loadChunk)
	for offset := int64(0); ; {
		n, err := c.Read(buf)
		if wrong := checkPattern(buf[:n], offset, true); wrong != nil {
			return wrong
		}
		offset += int64(n)
		switch {
		case errors.Is(err, io.EOF) && offset == size:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("stream ended after %d of %d bytes", offset, size)
		case err != nil:
			return fmt.Errorf("read at offset %d of %d: %w", offset, size, err)
		}
	}
}
