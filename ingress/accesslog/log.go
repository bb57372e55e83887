package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/adit-mesh/adit/ingress/proxy"
)

// Config is what a Log is made of.
type Config struct {
	Format *Format // nil = DefaultText
	// Open opens what is written to, at first and for each Reopen; the Log closes
	// it. See File and To.
	Open func() (io.WriteCloser, error)
	// Buffer bounds the bytes of lines that wait to be written; as many may be in
	// the middle of it. Zero means 1 MiB.
	Buffer int
	// Interval is how long a line may wait for others. Zero means 100 ms.
	Interval time.Duration
	Logger   *slog.Logger // nil = slog.DiscardHandler
}

const (
	// flushWait is how long the end is held up by a log that nobody drains.
	flushWait = 2 * time.Second
	// complainEvery bounds what is said about a log that cannot be written.
	complainEvery = time.Minute
	// largeLine is what no buffer is kept for.
	largeLine = 16 << 10
)

// Log writes a line for each request, in batches, from the one goroutine that Run
// is. Nobody who records waits for it: a line that finds the buffer full is
// dropped, and counted.
type Log struct {
	format   *Format
	open     func() (io.WriteCloser, error)
	max      int
	interval time.Duration
	log      *slog.Logger

	written, dropped atomic.Uint64
	lines            sync.Pool // of *[]byte

	some, half, reopen chan struct{} // one-slot edges

	mu      sync.Mutex // guards the fields below
	pending []byte
	spare   []byte
	ended   bool

	// The rest is Run's goroutine's.
	w          io.WriteCloser
	torn       bool // the last thing written is half a line
	complained time.Time
}

// NewLog opens the log. Its lines are written while Run runs.
func NewLog(c Config) (*Log, error) {
	l := &Log{
		format: c.Format, open: c.Open, max: c.Buffer, interval: c.Interval, log: c.Logger,
		lines:  sync.Pool{New: func() any { return new([]byte) }},
		some:   make(chan struct{}, 1),
		half:   make(chan struct{}, 1),
		reopen: make(chan struct{}, 1),
	}
	if l.format == nil {
		f, err := Text(DefaultText)
		if err != nil {
			return nil, err
		}
		l.format = f
	}
	if l.max == 0 {
		l.max = 1 << 20
	}
	if l.interval == 0 {
		l.interval = 100 * time.Millisecond
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	w, err := l.open()
	if err != nil {
		return nil, fmt.Errorf("open access log: %w", err)
	}
	l.w = w
	return l, nil
}

// Record writes the line of a request down. It keeps nothing of x and never
// blocks. It may be called by many goroutines.
func (l *Log) Record(x *proxy.Exchange) {
	buf := l.lines.Get().(*[]byte)
	*buf = l.format.Append((*buf)[:0], x)
	l.add(*buf)
	if cap(*buf) <= largeLine {
		l.lines.Put(buf)
	}
}

func (l *Log) add(line []byte) {
	l.mu.Lock()
	before := len(l.pending)
	after := before + len(line)
	if l.ended || after > l.max {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	l.pending = append(l.pending, line...)
	l.mu.Unlock()
	if before == 0 {
		signal(l.some)
	}
	if before < l.max/2 && after >= l.max/2 {
		signal(l.half)
	}
}

func signal(edge chan struct{}) {
	select {
	case edge <- struct{}{}:
	default:
	}
}

// Reopen makes what follows go to a file that is opened anew: a rotated log's name
// belongs to another file by then. It does not wait for that.
func (l *Log) Reopen() { signal(l.reopen) }

// Written is how many lines were written.
func (l *Log) Written() uint64 { return l.written.Load() }

// Dropped is how many lines were lost, because the log was not written fast
// enough, or not at all.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// Run writes lines until ctx ends, then those that are left, and closes the log.
// It is called once. If a write does not return within two seconds after ctx ended
// (a pipe that nobody reads), Run gives the rest up with an error; the goroutine
// that is in the middle of it ends when the write does.
func (l *Log) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go l.write(ctx, done)
	select {
	case err := <-done: // it does not end before ctx
		return err
	case <-ctx.Done():
	}
	timer := time.NewTimer(flushWait)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	l.mu.Lock()
	l.ended = true
	lost := bytes.Count(l.pending, newline)
	l.pending = nil
	l.mu.Unlock()
	l.dropped.Add(uint64(lost))
	return errors.New("access log: nobody reads it, its last lines are lost; check who reads the pipe")
}

var newline = []byte("\n")

// write is the goroutine that uses l.w.
func (l *Log) write(ctx context.Context, done chan<- error) {
	for ctx.Err() == nil {
		select {
		case <-l.some:
			l.gather(ctx)
			l.flush()
		case <-l.reopen:
			l.flush()
			l.change()
		case <-ctx.Done():
		}
	}
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.flush()
	done <- l.w.Close()
}

// gather waits for lines that the next write can take along.
func (l *Log) gather(ctx context.Context) {
	timer := time.NewTimer(l.interval)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.half:
	case <-ctx.Done():
	}
}

func (l *Log) flush() {
	l.mu.Lock()
	batch := l.pending
	l.pending, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	if len(batch) > 0 {
		l.writeBatch(batch)
	}
	l.mu.Lock()
	l.spare = batch[:0]
	l.mu.Unlock()
}

func (l *Log) writeBatch(batch []byte) {
	if l.torn {
		if _, err := l.w.Write(newline); err != nil {
			l.lose(batch, err)
			return
		}
		l.torn = false
	}
	n, err := l.w.Write(batch)
	l.written.Add(uint64(bytes.Count(batch[:n], newline)))
	if err == nil {
		return
	}
	l.torn = n > 0 && batch[n-1] != '\n'
	l.lose(batch[n:], err)
}

func (l *Log) lose(rest []byte, err error) {
	lost := bytes.Count(rest, newline)
	l.dropped.Add(uint64(lost))
	l.complain("access log lines lost: the log cannot be written; check the disk and who reads the pipe",
		"error", err, "lines", lost, "lost_in_all", l.dropped.Load())
}

func (l *Log) change() {
	w, err := l.open()
	if err != nil {
		l.complain("access log not reopened, the old file is written on; check directory and permissions", "error", err)
		return
	}
	if err := l.w.Close(); err != nil {
		l.complain("close access log", "error", err)
	}
	l.w, l.torn = w, false
}

// complain says what is wrong, now and then.
func (l *Log) complain(what string, args ...any) {
	if now := time.Now(); now.Sub(l.complained) >= complainEvery {
		l.complained = now
		l.log.Error(what, args...)
	}
}
