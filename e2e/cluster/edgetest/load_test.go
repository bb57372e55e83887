package edgetest

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// traffic is what clients outside ask, over and over.
type traffic struct {
	at     netip.Addr
	url    string
	roots  *x509.CertPool
	header []string
	// versions are those that clients speak; nil = all three.
	versions []version
	// every is from one request of a client to its next.
	every time.Duration
}

// load is traffic that runs: of each version one client that keeps its
// connection, and one that makes another for each request.
type load struct {
	cancel  context.CancelFunc
	clients sync.WaitGroup

	mu    sync.Mutex // guards tally
	tally map[string]*tally
}

// tally counts the requests of one client.
type tally struct {
	ok, failed int
	errors     map[string]int
	pods       map[string]int
	gap        time.Duration // the longest without a success
	since      time.Time
	last       string
	certs      map[string]int // by serial number
}

func newTally() *tally {
	return &tally{errors: map[string]int{}, pods: map[string]int{}, certs: map[string]int{}, since: time.Now()}
}

func (c *tally) String() string {
	return fmt.Sprintf("%d ok, %d failed, longest gap %d ms, pods %d", c.ok, c.failed, c.gap.Milliseconds(), len(c.pods))
}

// start runs traffic until stop, or the test's end. It returns once every client
// has had answers, and no failure among them: that a new Deployment is available is
// known before who its endpoints are.
func (tr traffic) start(t *testing.T) *load {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{cancel: cancel, tally: map[string]*tally{}}
	t.Cleanup(func() { l.cancel(); l.clients.Wait() })
	if tr.versions == nil {
		tr.versions = []version{h1, h2, h3}
	}
	if tr.every == 0 {
		tr.every = 40 * time.Millisecond
	}
	for _, v := range tr.versions {
		for _, fresh := range []bool{false, true} {
			name := string(v) + " kept"
			if fresh {
				name = string(v) + " new"
			}
			l.tally[name] = newTally()
			l.clients.Go(func() { l.ask(ctx, tr, name, v, fresh) })
		}
	}
	l.settle(t, 3)
	return l
}

func (l *load) ask(ctx context.Context, tr traffic, name string, v version, fresh bool) {
	var c *client
	tick := time.NewTicker(tr.every)
	defer tick.Stop()
	for ctx.Err() == nil {
		if c == nil {
			c = newClient(v, tr.at, tr.roots)
		}
		// One that began is finished.
		a, err := c.get(context.WithoutCancel(ctx), tr.url, tr.header...)
		l.count(name, c, a, err)
		if fresh {
			c.close()
			c = nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	if c != nil {
		c.close()
	}
}

func (l *load) count(name string, c *client, a *answer, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.tally[name]
	if err != nil {
		n.failed++
		n.last = time.Now().Format("15:04:05.000 ") + err.Error()
		if len(n.errors) < 20 {
			n.errors[withoutPorts(err.Error())]++
		}
		return
	}
	now := time.Now()
	n.ok++
	n.gap, n.since = max(n.gap, now.Sub(n.since)), now
	n.pods[a.Pod]++
	if leaf := c.leaf.Load(); leaf != nil {
		n.certs[leaf.SerialNumber.String()]++
	}
}

// withoutPorts makes errors of several connections one kind.
func withoutPorts(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		if at, err := netip.ParseAddrPort(strings.Trim(w, ":[]")); err == nil {
			words[i] = at.Addr().String()
		} else if from, to, ok := strings.Cut(strings.TrimSuffix(w, ":"), "->"); ok && from != "" {
			words[i] = "->" + to
		}
	}
	return strings.Join(words, " ")
}

// progress waits until each client has had so many more answers.
func (l *load) progress(t *testing.T, more int) {
	t.Helper()
	before := map[string]int{}
	l.mu.Lock()
	for name, n := range l.tally {
		before[name] = n.ok
	}
	l.mu.Unlock()
	meshlab.Eventually(t, fmt.Sprintf("every client has %d more answers", more), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for name, n := range l.tally {
			if n.ok < before[name]+more {
				return fmt.Errorf("%s: %s; last error: %s", name, n, n.last)
			}
		}
		return nil
	})
}

// forget starts the count anew, whatever has failed.
func (l *load) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked()
}

func (l *load) forgetLocked() {
	for name := range l.tally {
		l.tally[name] = newTally()
	}
}

// settle waits until things go well: until so many answers of each client have
// come without a failure. It starts the count anew.
func (l *load) settle(t *testing.T, answers int) {
	t.Helper()
	l.forget()
	meshlab.Eventually(t, fmt.Sprintf("no request of %d fails", answers), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for name, n := range l.tally {
			if n.failed > 0 {
				err := fmt.Errorf("%s: %s", name, n.last)
				l.forgetLocked()
				return err
			}
			if n.ok < answers {
				return fmt.Errorf("%s: %s", name, n)
			}
		}
		l.forgetLocked()
		return nil
	})
}

// pods are who has answered since forget, with how many answers.
func (l *load) pods() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]int{}
	for _, n := range l.tally {
		for pod, count := range n.pods {
			all[pod] += count
		}
	}
	return all
}

// stop ends it and says what was seen.
func (l *load) stop(t *testing.T) map[string]*tally {
	t.Helper()
	l.cancel()
	l.clients.Wait()
	for _, name := range slices.Sorted(maps.Keys(l.tally)) {
		t.Logf("%-13s %s", name, l.tally[name])
	}
	return l.tally
}

// sofar wants no request to have failed, and starts the count anew.
func (l *load) sofar(t *testing.T, by string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.judge(t, by)
	l.forgetLocked()
}

// unharmed ends the load and wants no request to have failed.
func (l *load) unharmed(t *testing.T, by string) map[string]*tally {
	t.Helper()
	l.progress(t, 5)
	all := l.stop(t)
	l.judge(t, by)
	return all
}

func (l *load) judge(t *testing.T, by string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(l.tally)) {
		if n := l.tally[name]; n.failed > 0 {
			t.Errorf("%s: %s: %d of %d requests failed: %v; the last one at %s", by, name, n.failed, n.ok+n.failed, n.errors, n.last)
		}
	}
}
