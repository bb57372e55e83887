package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// gateWriter takes nothing until it is opened.
type gateWriter struct {
	gate chan struct{}
	mu   sync.Mutex
	buf  bytes.Buffer
}

func (w *gateWriter) Write(p []byte) (int, error) {
	<-w.gate
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func discardLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestLogLosesNothingAtTheEnd(t *testing.T) {
	var out bytes.Buffer
	l := newAccessLog(&out, discardLogger())
	l.write([]byte("before run\n"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { l.run(ctx); close(done) }()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 500 {
				l.write(fmt.Appendf(nil, "line %d of %d\n", j, i))
				if i == 0 && j == 250 {
					cancel() // in the thick of it
				}
			}
		})
	}
	wg.Wait()
	<-done
	l.write([]byte("after run\n"))
	l.flush()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 4002 || l.dropped.Load() != 0 || l.written.Load() != 4002 {
		t.Fatalf("%d lines, %d written, %d dropped; want 4002, 4002 and 0", len(lines), l.written.Load(), l.dropped.Load())
	}
	next := make(map[string]int)
	for _, line := range lines[1 : len(lines)-1] {
		var j int
		var who string
		if _, err := fmt.Sscanf(line, "line %d of %s", &j, &who); err != nil {
			t.Fatalf("torn line %q", line)
		}
		if j != next[who] {
			t.Fatalf("line %d of %s came where %d was due", j, who, next[who])
		}
		next[who]++
	}
}

func TestStuckLogHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &gateWriter{gate: make(chan struct{})}
		l := newAccessLog(w, discardLogger())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.run(ctx); close(done) }()
		synctest.Wait()

		line := append(bytes.Repeat([]byte{'x'}, 1023), '\n')
		begin := time.Now()
		const lines = 5000
		for range lines {
			l.write(line)
		}
		if d := time.Since(begin); d > maxWait {
			t.Errorf("%d connections were held up for %s; want %s at most", lines, d, maxWait)
		}
		dropped := l.dropped.Load()
		if dropped == 0 {
			t.Error("nothing was dropped, though 5 MB do not fit")
		}

		close(w.gate)
		synctest.Wait()
		l.write(line)
		l.write(line)
		synctest.Wait()
		if got := l.dropped.Load(); got != dropped {
			t.Errorf("%d lines dropped after the writer recovered", got-dropped)
		}
		cancel()
		<-done
		if got := uint64(bytes.Count(w.buf.Bytes(), []byte("\n"))); got != lines+2-dropped || got != l.written.Load() {
			t.Errorf("%d lines arrived, %d counted as written, want %d", got, l.written.Load(), lines+2-dropped)
		}
	})
}

func TestSlowLogIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &gateWriter{gate: make(chan struct{})}
		l := newAccessLog(w, discardLogger())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.run(ctx); close(done) }()
		synctest.Wait()
		time.AfterFunc(maxWait/2, func() { close(w.gate) })
		line := append(bytes.Repeat([]byte{'x'}, 1023), '\n')
		for range 1500 {
			l.write(line)
		}
		cancel()
		<-done
		if l.dropped.Load() != 0 || bytes.Count(w.buf.Bytes(), []byte("\n")) != 1500 {
			t.Errorf("%d dropped of a log that was only slow", l.dropped.Load())
		}
	})
}

// A log that nobody reads any more does not keep the agent from stopping.
func TestStuckLogDoesNotHoldUpTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &gateWriter{gate: make(chan struct{})}
		var said bytes.Buffer
		tel := New(Config{AccessLog: w, Logger: slog.New(slog.NewTextHandler(&said, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tel.Run(ctx) }()
		tel.Open(outbound()).Close(1, 1, nil, FlagNone)
		synctest.Wait() // the line is being written, for ever
		begin := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for range 100 {
			tel.Open(outbound()).Close(1, 1, nil, FlagNone) // the last connections of a drain
		}
		tel.Flush()
		if d := time.Since(begin); d > 2*flushWait {
			t.Errorf("the end took %s, want %s", d, flushWait)
		}
		if !strings.Contains(said.String(), "nobody reads it") {
			t.Errorf("no word of lost lines: %s", &said)
		}
		close(w.gate)
		synctest.Wait()
		tel.Flush()
		if got := strings.Count(w.buf.String(), "\n"); got != 101 {
			t.Errorf("%d lines arrived once somebody read, want all 101", got)
		}
	})
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestFailingLogIsCountedAndSaidOnce(t *testing.T) {
	var said bytes.Buffer
	l := newAccessLog(failingWriter{}, slog.New(slog.NewTextHandler(&said, nil)))
	for range 10 {
		l.write([]byte("line\n"))
	}
	if l.dropped.Load() != 10 || l.written.Load() != 0 {
		t.Errorf("%d dropped, %d written; want 10 and 0", l.dropped.Load(), l.written.Load())
	}
	if n := strings.Count(said.String(), "no space left"); n != 1 {
		t.Errorf("said %d times within a minute: %s", n, &said)
	}
}

func TestLogWritesTheRestWhenRunEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &gateWriter{gate: make(chan struct{})}
		l := newAccessLog(w, discardLogger())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { l.run(ctx); close(done) }()
		synctest.Wait()
		l.write([]byte("under way\n"))
		synctest.Wait()
		l.write([]byte("pending\n"))
		<-l.wake // so that only the end of run can write it
		cancel()
		close(w.gate)
		<-done
		if got := w.buf.String(); got != "under way\npending\n" {
			t.Errorf("the log holds %q", got)
		}
	})
}

func BenchmarkConnection(b *testing.B) {
	for _, format := range []string{FormatText, FormatJSON} {
		b.Run(format, func(b *testing.B) {
			tel := New(Config{AccessLog: io.Discard, Format: format})
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error)
			go func() { done <- tel.Run(ctx) }()
			defer func() { cancel(); <-done }()
			info := outbound()
			b.ReportAllocs()
			for b.Loop() {
				r := tel.Open(info)
				r.Progress(1000, 10)
				r.Close(2000, 20, nil, FlagNone)
			}
		})
	}
}

func BenchmarkProgress(b *testing.B) {
	tel := New(Config{})
	r := tel.Open(outbound())
	var n int64
	for b.Loop() {
		n++
		r.Progress(n, n)
	}
}
