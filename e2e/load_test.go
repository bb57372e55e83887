package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/testbed"
)

func TestLargeStreamsDoNotStallSmallOnes(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	const size = 32 << 20
	serve(t, m.ServerB, func(c *net.TCPConn) {
		mode := make([]byte, 1)
		if _, err := io.ReadFull(c, mode); err != nil {
			return
		}
		if mode[0] == 'd' {
			_, _ = io.CopyN(c, zeroes{}, size)
			return
		}
		echo(c)
	})
	var done atomic.Bool
	var trips [4]atomic.Int64
	var wg sync.WaitGroup
	for i := range trips {
		c := dial(t, m.Client, at(m.ServerB.V4))
		if _, err := io.WriteString(c, "e"); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for !done.Load() {
				if err := roundTrip(c, "ping"); err != nil {
					t.Errorf("small stream %d: %v", i, err)
					return
				}
				trips[i].Add(1)
			}
		})
	}
	var bulk sync.WaitGroup
	for range 2 {
		c := dial(t, m.Client, at(m.ServerB.V4))
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.WriteString(c, "d"); err != nil {
			t.Fatal(err)
		}
		bulk.Go(func() {
			if n, err := io.Copy(io.Discard, c); n != size || err != nil {
				t.Errorf("large stream: %d of %d bytes, %v", n, size, err)
			}
		})
	}
	bulk.Wait()
	done.Store(true)
	wg.Wait()
	for i := range trips {
		if trips[i].Load() < 10 {
			t.Errorf("small stream %d made %d round trips beside the large ones", i, trips[i].Load())
		}
	}
}

type zeroes struct{}

func (zeroes) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestSlowReaderHoldsUpOnlyItself(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	resume := make(chan struct{})
	sums := make(chan []byte, 1)
	serve(t, m.ServerB, func(c *net.TCPConn) {
		mode := make([]byte, 1)
		if _, err := io.ReadFull(c, mode); err != nil {
			return
		}
		if mode[0] == 'e' {
			echo(c)
			return
		}
		<-resume
		sum := sha256.New()
		_, _ = io.Copy(sum, c)
		sums <- sum.Sum(nil)
	})
	// Released even if the test fails before: the handler waits for it.
	var once sync.Once
	release := func() { once.Do(func() { close(resume) }) }
	t.Cleanup(release)

	slow := dial(t, m.Client, at(m.ServerB.V4))
	sent := sha256.New()
	if _, err := io.WriteString(slow, "s"); err != nil {
		t.Fatal(err)
	}
	chunk := make([]byte, 64<<10)
	_, _ = rand.Read(chunk)
	written := 0
	for {
		_ = slow.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		n, err := slow.Write(chunk)
		sent.Write(chunk[:n])
		written += n
		if isTimeout(err) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if written > 64<<20 {
			t.Fatal("64 MiB are on their way to a reader that reads nothing: somebody buffers without bound")
		}
	}
	quick := dial(t, m.Client, at(m.ServerB.V4))
	if _, err := io.WriteString(quick, "e"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if err := roundTrip(quick, "beside it"); err != nil {
			t.Fatalf("a slow reader holds up its neighbour on the same tunnel: %v", err)
		}
	}
	release()
	_ = slow.SetDeadline(time.Now().Add(patience))
	if err := slow.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := ends(slow); err != nil {
		t.Errorf("the slow connection ends with %v", err)
	}
	if got := <-sums; !bytes.Equal(got, sent.Sum(nil)) {
		t.Errorf("%d bytes went in and others came out", written)
	}
}

func TestThousandConnectionsLeaveNothingBehind(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	serve(t, m.ServerB, echo)
	warm := dial(t, m.Client, at(m.ServerB.V4))
	if err := roundTrip(warm, "first"); err != nil {
		t.Fatal(err)
	}
	_ = warm.Close()
	before := [2]int{files(t, m.A), files(t, m.B)}

	const total, dialing = 1000, 32
	conns := make([]*net.TCPConn, total)
	var wg sync.WaitGroup
	next := make(chan int)
	for range dialing {
		wg.Go(func() {
			for i := range next {
				c, err := tryDial(t.Context(), m.Client, at(m.ServerB.V4))
				if err == nil {
					conns[i] = c
					err = roundTrip(c, "hello")
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
			}
		})
	}
	for i := range total {
		next <- i
	}
	close(next)
	wg.Wait()
	conns = slices.DeleteFunc(conns, func(c *net.TCPConn) bool { return c == nil })
	for _, c := range conns {
		if err := roundTrip(c, "all open"); err != nil {
			t.Errorf("with %d connections open: %v", len(conns), err)
			break
		}
	}
	for _, c := range conns {
		_ = c.Close()
	}
	for i, agent := range []*testbed.Agent{m.A, m.B} {
		// Some slack for pipes and timers that are pooled, far below one each.
		err := testbed.Poll(t.Context(), patience, func() error {
			if now := files(t, agent); now > before[i]+100 {
				return errors.New("descriptors leak")
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v: %d before, %d after %d connections", agent.Node.Name, err, before[i], files(t, agent), total)
		}
	}
}

// files counts the open descriptors of an agent.
func files(t *testing.T, a *testbed.Agent) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", a.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}
