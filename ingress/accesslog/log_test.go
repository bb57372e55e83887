package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-mesh/adit/ingress/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink is a place to write to whose reader can be slow, or gone.
type sink struct {
	mu     sync.Mutex
	b      bytes.Buffer
	writes int
	closed bool
	fail   func(p []byte) (int, error) // nil = nothing fails
	gate   chan struct{}               // if set, a write waits until it is closed
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.fail != nil {
		n, err := s.fail(p)
		s.b.Write(p[:n])
		return n, err
	}
	return s.b.Write(p)
}

func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

func (s *sink) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newLog(t *testing.T, c Config) *Log {
	t.Helper()
	f, err := Text("%REQ(:PATH)%")
	if err != nil {
		t.Fatal(err)
	}
	c.Format = f
	l, err := NewLog(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func opener(w io.WriteCloser) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) { return w, nil }
}

func (l *Log) say(s string) { l.Record(&proxy.Exchange{Path: s}) }

func TestLinesAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		l := newLog(t, Config{Open: opener(s)})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()

		l.say("a")
		synctest.Wait()
		l.say("b")
		time.Sleep(99 * time.Millisecond)
		synctest.Wait()
		if n := s.count(); n != 0 {
			t.Errorf("%d writes before the interval was over", n)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if got := s.String(); got != "a\nb\n" || s.count() != 1 {
			t.Errorf("got %q in %d writes, want both lines in one", got, s.count())
		}
		time.Sleep(time.Hour)
		l.say("c")
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if got := s.String(); got != "a\nb\nc\n" || !s.closed {
			t.Errorf("at the end %q, closed: %v", got, s.closed)
		}
		l.say("late")
		if l.Written() != 3 || l.Dropped() != 1 {
			t.Errorf("%d written, %d dropped; want 3, and the one after the end", l.Written(), l.Dropped())
		}
	})
}

func TestNobodyWaitsForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{gate: make(chan struct{})}
		l := newLog(t, Config{Open: opener(s), Buffer: 100})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()

		line := strings.Repeat("x", 9)
		begun := time.Now()
		for range 10 { // one buffer, which makes the writer begin at once
			l.say(line)
		}
		synctest.Wait()
		for range 20 {
			l.say(line)
		}
		if d := time.Since(begun); d != 0 {
			t.Errorf("recording took %v of a clock that moves only if somebody waits", d)
		}
		if got := l.Dropped(); got != 10 {
			t.Errorf("%d lines dropped, want the 10 that neither buffer has room for", got)
		}
		close(s.gate)
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if got := strings.Count(s.String(), line+"\n"); got != 20 || l.Written() != 20 {
			t.Errorf("%d lines arrived, %d counted; want 20", got, l.Written())
		}
	})
}

func TestTheEndWaitsForAReaderNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{gate: make(chan struct{})}
		l := newLog(t, Config{Open: opener(s)})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		l.say("stuck")
		time.Sleep(time.Second)
		l.say("waits")
		stop()
		begun := time.Now()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "nobody reads it") {
			t.Errorf("Run ended with %v", err)
		}
		if d := time.Since(begun); d != flushWait {
			t.Errorf("the end took %v, want %v", d, flushWait)
		}
		if l.Dropped() != 1 {
			t.Errorf("%d lines dropped, want the one that waits", l.Dropped())
		}
		close(s.gate) // or the bubble's goroutines never end
		synctest.Wait()
		if got := s.String(); got != "stuck\n" || l.Written() != 1 {
			t.Errorf("got %q", got)
		}
	})
}

func TestAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{fail: func(p []byte) (int, error) { return 3, errors.New("no space left on device") }}
		l := newLog(t, Config{Open: opener(s)})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		l.say("a")
		l.say("bcd")
		l.say("efg")
		time.Sleep(time.Second)
		synctest.Wait()
		if l.Written() != 1 || l.Dropped() != 2 {
			t.Errorf("%d written, %d dropped; want 1 and 2", l.Written(), l.Dropped())
		}
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		l.say("h")
		stop()
		<-ended
		if got := s.String(); got != "a\nb\nh\n" {
			t.Errorf("got %q, want half a line to be ended before the next begins", got)
		}
	})
}

func TestReopenAfterRotation(t *testing.T) {
	dir := t.TempDir()
	path, old := filepath.Join(dir, "access.log"), filepath.Join(dir, "access.log.1")
	l := newLog(t, Config{Open: File(path), Interval: time.Millisecond})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	l.say("before")
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err := os.Stat(path); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal("the file was not opened anew")
		}
		time.Sleep(time.Millisecond)
	}
	l.say("after")
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{old: "before\n", path: "after\n"} {
		if b, err := os.ReadFile(name); err != nil || string(b) != want {
			t.Errorf("%s has %q (%v), want %q", filepath.Base(name), b, err, want)
		}
	}
}

func TestTheOldFileIsKeptIfTheNewOneCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		opened := 0
		l := newLog(t, Config{Open: func() (io.WriteCloser, error) {
			if opened++; opened > 1 {
				return nil, errors.New("permission denied")
			}
			return s, nil
		}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		l.Reopen()
		synctest.Wait()
		l.say("a")
		stop()
		<-ended
		if got := s.String(); got != "a\n" || opened != 2 {
			t.Errorf("got %q after %d openings", got, opened)
		}
	})
}

func TestAFileThatCannotBeOpened(t *testing.T) {
	_, err := NewLog(Config{Open: File(filepath.Join(t.TempDir(), "none", "access.log"))})
	if err == nil || !strings.HasPrefix(err.Error(), "open access log: open ") {
		t.Errorf("error %v", err)
	}
}

func TestManyWhoRecord(t *testing.T) {
	var b bytes.Buffer
	l := newLog(t, Config{Open: To(&b), Interval: time.Microsecond})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 500 {
				l.say(fmt.Sprintf("/%d/%d", g, i))
			}
		})
	}
	wg.Wait()
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	last := map[int]int{}
	for line := range strings.Lines(b.String()) {
		var g, i int
		if _, err := fmt.Sscanf(line, "/%d/%d\n", &g, &i); err != nil || i != last[g] {
			t.Fatalf("line %q, want number %d of %d", line, last[g], g)
		}
		last[g]++
	}
	if l.Written() != 4000 || l.Dropped() != 0 {
		t.Errorf("%d written, %d dropped; want all 4000", l.Written(), l.Dropped())
	}
}

// Record itself takes its buffer from a sync.Pool, which loses some on purpose
// under the race detector.
func TestAddingALineAllocatesNothing(t *testing.T) {
	l := newLog(t, Config{Open: To(io.Discard), Buffer: 1 << 16})
	line := []byte(strings.Repeat("x", 200) + "\n")
	for l.Dropped() == 0 { // until it is full
		l.add(line)
	}
	l.pending = l.pending[:0]
	if n := testing.AllocsPerRun(100, func() { l.add(line) }); n != 0 {
		t.Errorf("%v allocations a line", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	l, err := NewLog(Config{Open: To(io.Discard)})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x := exchange()
		for pb.Next() {
			l.Record(x)
		}
	})
	stop()
	<-ended
	b.ReportMetric(float64(l.Dropped())/float64(b.N), "dropped/op")
}
