package ingress

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// counter counts the bytes of a relay, so that a timer can see whether it is idle
// without a deadline at each read.
type counter struct{ n atomic.Int64 }

func (c *counter) add(n int) { c.n.Add(int64(n)) }

// watch is watchIdle for c.
func (c *counter) watch(idle time.Duration, end func()) (stop func()) {
	return watchIdle(idle, c.n.Load, end)
}

// watchIdle calls end once sample has given the same for between idle and one and
// a half times that. stop ends it, and waits for end if that is running.
func watchIdle(idle time.Duration, sample func() int64, end func()) (stop func()) {
	var (
		mu    sync.Mutex // guards the rest
		over  bool
		seen  = int64(-1)
		same  int
		timer *time.Timer
	)
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(idle/2, func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if now := sample(); now != seen {
			seen, same = now, 0
		} else if same++; same >= 2 {
			over = true
			end()
			return
		}
		timer.Reset(idle / 2)
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		timer.Stop()
	}
}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func copyBuffered(dst io.Writer, src io.Reader, moved *counter) error {
	buf := buffers.Get().(*[32 << 10]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			w, werr := dst.Write(buf[:n])
			moved.add(w)
			if werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
