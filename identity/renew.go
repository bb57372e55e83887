package identity

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// wallCheck bounds a sleep. Timers run on the monotonic clock, which stands
// still while the machine is suspended; certificates expire by the wall clock.
const wallCheck = time.Minute

// waitersPause is the pause after a failure while somebody waits for the SVID.
const waitersPause = 5 * time.Second

// sweepEvery is how often unused client configurations are looked for.
const sweepEvery = 5 * time.Minute

// Run fetches and renews SVIDs until ctx ends, then waits for the fetches
// under way and returns nil. SVIDs that are still valid can be had after that.
// It is called once.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	if m.running {
		m.mu.Unlock()
		return errors.New("identity: Run called twice")
	}
	m.running = true
	m.mu.Unlock()

	var keepers sync.WaitGroup
	defer close(m.stopped)
	defer keepers.Wait()

	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		m.start(ctx, &keepers)
		select {
		case <-m.arrived:
		case <-sweep.C:
			m.sweepClients(time.Now())
		case <-ctx.Done():
			return nil
		}
	}
}

// start gives each new entry its goroutine.
func (m *Manager) start(ctx context.Context, keepers *sync.WaitGroup) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if e.cancel != nil {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		e.cancel = cancel
		keepers.Go(func() {
			defer cancel()
			m.keep(ctx, e)
		})
	}
}

// keep is the goroutine of one identity. ctx ends with Run and with the last
// release. Being the only one that fetches for e, it never has two fetches
// under way.
func (m *Manager) keep(ctx context.Context, e *entry) {
	for ctx.Err() == nil {
		rotations := m.begin(e)
		got, err := m.fetch(ctx, e.id)
		if ctx.Err() != nil {
			return // a fetch that was called off says nothing about the source
		}
		next := m.finish(e, got, err)
		for _, done := range rotations {
			done <- err
		}
		e.sleep(ctx, next)
	}
}

func (m *Manager) begin(e *entry) (rotations []chan<- error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e.next = time.Time{}
	rotations, e.rotations = e.rotations, nil
	select {
	case <-e.wake: // set by the rotations just taken
	default:
	}
	return rotations
}

// finish publishes the outcome of an attempt and returns when to make the next.
func (m *Manager) finish(e *entry, got *issued, err error) time.Time {
	now := time.Now()
	m.mu.Lock()
	e.err, e.attempted = err, now
	if err == nil {
		e.current, e.failures = got, 0
		e.next = renewAt(got.cert.Leaf.NotBefore, got.cert.Leaf.NotAfter, now)
	} else {
		e.failures++
		e.next = now.Add(m.backoff.pause(e.failures))
	}
	current, failures, next := e.current, e.failures, e.next
	close(e.changed)
	e.changed = make(chan struct{})
	m.mu.Unlock()

	if err == nil {
		m.log.Info("certificate issued", "identity", e.id.String(),
			"serial", fmt.Sprintf("%x", got.cert.Leaf.SerialNumber),
			"not_after", got.cert.Leaf.NotAfter, "renew_at", next)
		return next
	}
	attrs := []any{"identity", e.id.String(), "error", err, "attempt", failures, "retry_at", next}
	if current != nil && !current.expired(now) {
		m.log.Warn("certificate not renewed, the old one stays in use", append(attrs, "not_after", current.cert.Leaf.NotAfter)...)
	} else {
		m.log.Error("no certificate, connections of this identity wait and fail", attrs...)
	}
	return next
}

// sleep waits until the wall clock shows t, someone asks for a fetch, or ctx
// ends.
func (e *entry) sleep(ctx context.Context, t time.Time) {
	t = t.Round(0) // strips the monotonic reading
	for {
		d := time.Until(t)
		if d <= 0 {
			return
		}
		timer := time.NewTimer(min(d, wallCheck))
		select {
		case <-timer.C:
		case <-e.wake:
			timer.Stop()
			return
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// renewAt returns half life, spread by a tenth of it either way so that pods
// enrolled together do not renew together. An SVID that comes from its source
// already half used up is renewed after half of what is left, since asking at
// once would give the same one.
func renewAt(notBefore, notAfter, now time.Time) time.Time {
	half := notAfter.Sub(notBefore) / 2
	at := notBefore.Add(spread(half, 0.1))
	if at.After(now) {
		return at
	}
	return now.Add(max(spread(notAfter.Sub(now)/2, 0.1), time.Second))
}

// backoff is the pause between failed attempts of one identity.
type backoff struct {
	initial, max time.Duration
}

func (b backoff) pause(failures int) time.Duration {
	d := b.initial
	for i := 1; i < failures && d < b.max; i++ {
		d *= 2
	}
	return spread(min(d, b.max), 0.2)
}

// spread returns d, more or less up to the given part of it.
func spread(d time.Duration, part float64) time.Duration {
	return time.Duration(float64(d) * (1 + part*(2*rand.Float64()-1)))
}

func (m *Manager) fetch(ctx context.Context, id spiffeid.ID) (*issued, error) {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}

	ctx, cancel := context.WithTimeout(ctx, m.fetchTimeout)
	defer cancel()
	svid, err := m.source.FetchX509SVID(ctx, id)
	if err != nil {
		return nil, err
	}
	return m.check(svid, id)
}

// check refuses an SVID that our peers would refuse, so that the fault is seen
// here and with its reason rather than as their TLS alert.
func (m *Manager) check(svid *x509svid.SVID, id spiffeid.ID) (*issued, error) {
	if svid == nil || len(svid.Certificates) == 0 || svid.PrivateKey == nil {
		return nil, fmt.Errorf("the source returned an SVID without certificate or key")
	}
	leaf := svid.Certificates[0]
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(svid.PrivateKey.Public()) {
		return nil, fmt.Errorf("the source returned a private key that does not match its certificate (serial %x)", leaf.SerialNumber)
	}
	got, err := verifyChain(svid.Certificates, m.source, time.Now(), anyPurpose)
	if err != nil {
		return nil, fmt.Errorf("the source returned a certificate that peers will refuse: %w", err)
	}
	if got != id || svid.ID != id {
		return nil, fmt.Errorf("the source returned a certificate for %s", got)
	}

	cert := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: leaf}
	for _, c := range svid.Certificates {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	return &issued{svid: svid, cert: cert}, nil
}
