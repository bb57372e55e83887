package telemetry

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxPending bounds the bytes that wait to be written: some thousand
	// lines.
	maxPending = 1 << 20
	// maxWait is how long the closing of one connection is held up by a log
	// that nobody drains.
	maxWait = 100 * time.Millisecond
	// flushWait is how long the end is held up by it.
	flushWait = 2 * time.Second
	// complainEvery bounds what is said about a log that cannot be written.
	complainEvery = time.Minute
)

// accessLog hands lines to a writer in batches, from one goroutine while run
// runs and else from whoever writes. It is a prometheus.Collector.
//
// If the writer does not keep up, a line waits for room, and is dropped after
// maxWait. From then on lines are dropped without a wait, until the writer
// takes a batch again. A write that never returns keeps one goroutine for good,
// for nothing can end it; nobody waits for it longer than flushWait.
type accessLog struct {
	w       io.Writer
	log     *slog.Logger
	wake    chan struct{} // one-slot edge: something is pending
	busy    chan struct{} // full while w is used
	written atomic.Uint64
	dropped atomic.Uint64

	mu      sync.Mutex // guards the fields below
	pending []byte
	lines   uint64        // in pending
	room    chan struct{} // closed, and replaced, when pending is taken
	running bool
	stuck   bool
	spare   []byte

	complained time.Time
}

func newAccessLog(w io.Writer, log *slog.Logger) *accessLog {
	return &accessLog{w: w, log: log, wake: make(chan struct{}, 1), busy: make(chan struct{}, 1), room: make(chan struct{})}
}

// write copies the line b.
func (l *accessLog) write(b []byte) {
	l.mu.Lock()
	if !l.fitsLocked(len(b)) {
		l.waitLocked(len(b))
		if !l.fitsLocked(len(b)) {
			l.stuck = true
			l.mu.Unlock()
			l.dropped.Add(1)
			return
		}
	}
	l.pending = append(l.pending, b...)
	l.lines++
	running := l.running
	l.mu.Unlock()

	if !running {
		l.flush()
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *accessLog) fitsLocked(n int) bool {
	return len(l.pending) == 0 || len(l.pending)+n <= maxPending
}

// waitLocked gives up mu while it waits for room.
func (l *accessLog) waitLocked(n int) {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	for expired := false; !expired && !l.stuck && !l.fitsLocked(n); {
		room := l.room
		l.mu.Unlock()
		select {
		case <-room:
		case <-timer.C:
			expired = true
		}
		l.mu.Lock()
	}
}

// run writes what is pending until ctx ends, and then the rest.
func (l *accessLog) run(ctx context.Context) {
	l.setRunning(true)
	for {
		select {
		case <-l.wake:
			l.writeUntil(ctx.Done())
		case <-ctx.Done():
			l.setRunning(false)
			l.flush()
			return
		}
	}
}

func (l *accessLog) setRunning(running bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = running
}

// flush returns when everything that was pending has been written, or after
// flushWait: at once if somebody has waited as long before.
func (l *accessLog) flush() {
	l.mu.Lock()
	wait := flushWait
	if l.stuck {
		wait = 0
	}
	l.mu.Unlock()
	expired := make(chan struct{})
	defer time.AfterFunc(wait, func() { close(expired) }).Stop()
	if l.writeUntil(expired) {
		return
	}
	l.mu.Lock()
	l.stuck = true
	lines := l.lines
	l.mu.Unlock()
	l.complain("nobody reads it", lines)
}

// writeUntil writes what is pending, and reports whether that was done before
// stop. If not, it goes on without the caller.
func (l *accessLog) writeUntil(stop <-chan struct{}) bool {
	select {
	case l.busy <- struct{}{}:
	case <-stop:
		return false
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.writeBatch()
		<-l.busy
	}()
	select {
	case <-done:
		return true
	case <-stop:
		return false
	}
}

// writeBatch is called by whoever has filled busy.
func (l *accessLog) writeBatch() {
	l.mu.Lock()
	batch, lines := l.pending, l.lines
	l.pending, l.lines = l.spare[:0], 0
	l.spare = nil
	l.stuck = false
	close(l.room)
	l.room = make(chan struct{})
	l.mu.Unlock()

	if lines > 0 {
		if _, err := l.w.Write(batch); err != nil {
			l.dropped.Add(lines)
			l.complain(err.Error(), lines)
		} else {
			l.written.Add(lines)
		}
	}
	l.mu.Lock()
	l.spare, l.stuck = batch, false // it does take something
	l.mu.Unlock()
}

// complain says that lines are lost, now and then.
func (l *accessLog) complain(why string, lines uint64) {
	l.mu.Lock()
	now := time.Now()
	say := now.Sub(l.complained) >= complainEvery
	if say {
		l.complained = now
	}
	l.mu.Unlock()
	if say {
		l.log.Error("access log lines lost: the log cannot be written; check the disk and who reads the pipe",
			"error", why, "lines", lines, "lost_in_all", l.dropped.Load())
	}
}

var (
	linesDesc   = prometheus.NewDesc("adit_access_log_lines_total", "Access-log lines written.", nil, nil)
	droppedDesc = prometheus.NewDesc("adit_access_log_dropped_total",
		"Access-log lines lost because the log could not be written, or not fast enough.", nil, nil)
)

// Describe implements prometheus.Collector.
func (l *accessLog) Describe(ch chan<- *prometheus.Desc) {
	ch <- linesDesc
	ch <- droppedDesc
}

// Collect implements prometheus.Collector.
func (l *accessLog) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(linesDesc, prometheus.CounterValue, float64(l.written.Load()))
	ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(l.dropped.Load()))
}
