package h2

import (
	"sync"
	"time"
)

// deadline is one that a handler has set. Its fields are guarded by conn.mu.
type deadline struct {
	timer  *time.Timer
	gen    int // of set: a timer that fired too late is not heeded
	passed bool
}

// setLocked sets the deadline; wake is told when it has passed.
func (d *deadline) setLocked(t time.Time, mu *sync.Mutex, wake *sync.Cond) {
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		d.passed = true
		wake.Broadcast()
		return
	}
	gen := d.gen
	d.timer = time.AfterFunc(left, func() {
		mu.Lock()
		defer mu.Unlock()
		if d.gen == gen {
			d.passed = true
			wake.Broadcast()
		}
	})
}

func (d *deadline) stop() {
	d.gen++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
