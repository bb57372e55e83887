package capture_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
)

// heard is a log handler that passes on messages.
type heard chan string

func (h heard) Enabled(context.Context, slog.Level) bool { return true }
func (h heard) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h heard) WithGroup(string) slog.Handler            { return h }
func (h heard) Handle(_ context.Context, r slog.Record) error {
	select {
	case h <- r.Message:
	default:
	}
	return nil
}

// Out of descriptors, a listener waits for some; it does not stop.
func TestAcceptOutlivesDescriptorShortage(t *testing.T) {
	w := newWorld(t)
	messages := make(heard, 100)
	b := w.enrolConfig(w.b, capture.PodConfig{Logger: slog.New(messages)})
	w.app(w.b, v4.port(w.b, appPort))
	w.mustCall("before", w.c, v4.port(w.b, appPort), v4.of(w.c))

	var fd int
	w.must(w.c.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	defer unix.Close(fd)
	var limit unix.Rlimit
	w.must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	none := limit
	none.Cur = 0
	w.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &none))
	err := unix.Connect(fd, &unix.SockaddrInet4{Port: appPort, Addr: v4.of(w.b).As4()})
	paused := false
	for deadline := time.After(patience); err == nil && !paused; {
		select {
		case m := <-messages:
			paused = strings.HasPrefix(m, "accept paused")
		case <-deadline:
			err = context.DeadlineExceeded
		}
	}
	w.must(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	if err != nil {
		t.Fatalf("the shortage was not noticed: %v", err)
	}
	w.eventually("the queued connection is accepted", func() bool { return len(b.saw(capture.PortInbound)) == 2 })
	w.mustCall("after", w.c, v4.port(w.b, appPort), v4.of(w.c))
}

// Closing a listener resets what is queued and ends Accept.
func TestListenerClose(t *testing.T) {
	w := newWorld(t)
	n, err := capture.OpenNetns(w.b.Path())
	w.must(err)
	pod, err := capture.Enrol(t.Context(), capture.PodConfig{Netns: n})
	w.must(err)
	// Nobody accepts, so this one stays in the listener's hands.
	queued, err := w.c.Dial(t.Context(), nil, "tcp", v4.port(w.b, appPort).String())
	w.must(err)
	defer queued.Close()
	w.must(pod.Detach())
	_ = queued.SetReadDeadline(time.Now().Add(patience))
	if _, err := queued.Read(make([]byte, 1)); err == nil || err.(net.Error).Timeout() {
		t.Errorf("a queued connection sees %v, want that it ended", err)
	}
	if _, err := pod.Inbound().Accept(); err == nil {
		t.Error("Accept works after Close")
	}
	if _, err := pod.Dial(t.Context(), v4.port(w.c, appPort)); err == nil {
		t.Error("Dial works after Detach")
	}
	if err := pod.Drain(); err == nil {
		t.Error("Drain works after Detach")
	}
}

// An agent with many connections has no descriptor below 1024 left, which is all that select(2) can take.
func TestManyDescriptors(t *testing.T) {
	w := newWorld(t)
	var held []int
	defer func() {
		for _, fd := range held {
			_ = unix.Close(fd)
		}
	}()
	for len(held) == 0 || held[len(held)-1] < 1100 {
		fd, err := unix.FcntlInt(2, unix.F_DUPFD_CLOEXEC, 3)
		if errors.Is(err, unix.EMFILE) {
			t.Skip("the limit of open files is below 1100")
		}
		w.must(err)
		held = append(held, fd)
	}
	b := w.enrol(w.b, capture.Rules{})
	if got := b.pod.Verify(); len(got) != 0 {
		t.Errorf("found %v", got)
	}
	w.must(b.pod.Drain())
	w.must(b.pod.Remove())
}
