package identity

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Errors of [Manager.SVID], of the handshakes that need an SVID, and of
// [Manager.Rotate].
var (
	// ErrNotInUse: no local pod has acquired the identity.
	ErrNotInUse = errors.New("no local pod uses this identity")
	// ErrStopped: Run has returned, nothing is fetched any more.
	ErrStopped = errors.New("identity manager is stopped")
)

// ManagerConfig configures a [Manager].
type ManagerConfig struct {
	// Source issues the SVIDs. Required.
	Source Source
	// TrustDomains are those whose SVIDs are accepted of peers. Empty accepts
	// nobody.
	TrustDomains []spiffeid.TrustDomain
	// Logger receives renewals and failures. nil discards them.
	Logger *slog.Logger
	// ParallelFetches bounds the requests to the source that are under way
	// at once. Zero means 8.
	ParallelFetches int
	// FetchTimeout bounds one request to the source. Zero means 15 s.
	FetchTimeout time.Duration
	// BackoffInitial is the pause after the first failure; it doubles with
	// each further one up to BackoffMax, and is spread by a fifth either
	// way. Zero means 0.5 s and 150 s.
	BackoffInitial, BackoffMax time.Duration
}

// Manager keeps one current SVID for each identity that local pods use.
//
// An identity lives from its first [Manager.Acquire] to its last release.
// While it lives, one goroutine owned by [Manager.Run] fetches and renews its
// SVID:
//
//	                       ok
//	Acquire --> fetching ------> current
//	            ^  ^  | error       | half its life is over, or Rotate
//	            |  |  v             |
//	            | back-off          |
//	            +-------------------+
//
// A failed renewal leaves the SVID in use until it expires. Back-off is short
// while somebody waits for the SVID: see [Manager.SVID].
//
// All methods may be called concurrently.
type Manager struct {
	source       Source
	trustDomains map[spiffeid.TrustDomain]bool
	accepted     string // trustDomains, for messages
	log          *slog.Logger
	fetchTimeout time.Duration
	backoff      backoff

	slots   chan struct{} // one per fetch under way
	arrived chan struct{} // one-slot edge: an entry waits to be started
	stopped chan struct{} // closed when Run returns

	mu      sync.Mutex // guards the fields below and those of entry
	running bool
	entries map[spiffeid.ID]*entry
}

// entry is one identity in use.
type entry struct {
	id   spiffeid.ID
	gone chan struct{} // closed at the last release
	wake chan struct{} // one-slot edge: fetch now

	refs      int
	cancel    context.CancelFunc // ends its goroutine; nil until started
	current   *issued            // nil until the first success
	err       error              // of the latest attempt; nil after a success
	failures  int                // since the latest success
	attempted time.Time          // when the latest attempt ended
	next      time.Time          // of the next attempt; zero while one is under way
	changed   chan struct{}      // closed, and replaced, at the end of every attempt
	rotations []chan<- error     // who waits for the attempt that has not begun

	server  *tls.Config
	clients map[string]*clientConfig
}

// issued is an SVID that passed [Manager.check], in the two forms that its
// users want. It is immutable.
type issued struct {
	svid *x509svid.SVID
	cert *tls.Certificate
}

func (i *issued) expired(now time.Time) bool {
	return !now.Before(i.cert.Leaf.NotAfter)
}

// NewManager returns a manager that does nothing until [Manager.Run] is called.
func NewManager(cfg ManagerConfig) *Manager {
	if cfg.Source == nil {
		panic("identity: ManagerConfig.Source is nil")
	}
	m := &Manager{
		source:       cfg.Source,
		trustDomains: make(map[spiffeid.TrustDomain]bool, len(cfg.TrustDomains)),
		accepted:     joinNames(cfg.TrustDomains),
		log:          cfg.Logger,
		fetchTimeout: orDefault(cfg.FetchTimeout, 15*time.Second),
		backoff: backoff{
			initial: orDefault(cfg.BackoffInitial, 500*time.Millisecond),
			max:     orDefault(cfg.BackoffMax, 150*time.Second),
		},
		slots:   make(chan struct{}, orDefault(cfg.ParallelFetches, 8)),
		arrived: make(chan struct{}, 1),
		stopped: make(chan struct{}),
		entries: make(map[spiffeid.ID]*entry),
	}
	for _, td := range cfg.TrustDomains {
		m.trustDomains[td] = true
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	return m
}

func orDefault[T int | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

// Acquire says that a local pod uses id. The first one starts the fetch of its
// SVID; the last release drops the identity with its key at once, and ends
// waits for it with [ErrNotInUse]. Release may be called more than once.
func (m *Manager) Acquire(id spiffeid.ID) (release func()) {
	m.mu.Lock()
	e := m.entries[id]
	if e == nil {
		e = &entry{
			id:      id,
			gone:    make(chan struct{}),
			wake:    make(chan struct{}, 1),
			changed: make(chan struct{}),
			clients: make(map[string]*clientConfig),
		}
		m.entries[id] = e
		signal(m.arrived)
	}
	e.refs++
	m.mu.Unlock()

	return sync.OnceFunc(func() { m.release(e) })
}

func (m *Manager) release(e *entry) {
	m.mu.Lock()
	e.refs--
	last := e.refs == 0
	if last {
		delete(m.entries, e.id)
		close(e.gone)
		if e.cancel != nil {
			e.cancel()
		}
	}
	m.mu.Unlock()
	if last {
		m.log.Debug("identity dropped", "identity", e.id.String())
	}
}

// SVID returns the current SVID of id. If there is none yet, or it has expired
// and could not be renewed, SVID waits for one until ctx ends; its error then
// says why the source gave none. It fails at once if no local pod uses id, and
// if the source has just refused id.
//
// Who waits does not wait out a long back-off: 5 s after the latest failure, or
// refusal, the source is asked again. A pod that starts when the source is back
// starts then.
func (m *Manager) SVID(ctx context.Context, id spiffeid.ID) (*x509svid.SVID, error) {
	i, err := m.get(ctx, id)
	if err != nil {
		return nil, err
	}
	return i.svid, nil
}

func (m *Manager) get(ctx context.Context, id spiffeid.ID) (*issued, error) {
	var hurried time.Time // the end of the attempt after which this call has asked for the next
	for {
		m.mu.Lock()
		e := m.entries[id]
		if e == nil {
			m.mu.Unlock()
			return nil, &SVIDError{ID: id, Err: ErrNotInUse}
		}
		current, lastErr, changed, attempted := e.current, e.err, e.changed, e.attempted
		m.mu.Unlock()

		now := time.Now()
		switch {
		case current != nil && !current.expired(now):
			return current, nil
		case errors.Is(lastErr, ErrRefused) && now.Before(attempted.Add(waitersPause)):
			return nil, &SVIDError{ID: id, Err: lastErr}
		}

		var hurry <-chan time.Time
		if lastErr != nil && !hurried.Equal(attempted) {
			hurry = time.After(time.Until(attempted.Add(waitersPause)))
		}
		select {
		case <-hurry:
			m.hurry(e, attempted)
			hurried = attempted
		case <-changed:
		case <-e.gone: // and perhaps acquired anew
		case <-m.stopped:
			return nil, missing(id, current, lastErr, ErrStopped)
		case <-ctx.Done():
			return nil, missing(id, current, lastErr, ctx.Err())
		}
	}
}

// hurry has the source asked now, unless that has happened since the attempt
// that ended at attempted.
func (m *Manager) hurry(e *entry, attempted time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.attempted.Equal(attempted) && !e.next.IsZero() {
		signal(e.wake)
	}
}

// SVIDError says why there is no SVID to present. It is our side's fault, or
// our source's, never the peer's.
type SVIDError struct {
	ID  spiffeid.ID
	Err error
}

func (e *SVIDError) Error() string { return fmt.Sprintf("no certificate for %s: %v", e.ID, e.Err) }

// Unwrap gives the cause.
func (e *SVIDError) Unwrap() error { return e.Err }

func missing(id spiffeid.ID, old *issued, lastErr, end error) error {
	err := end
	switch {
	case lastErr != nil:
		err = fmt.Errorf("%w (%w)", lastErr, end)
	case errors.Is(end, context.DeadlineExceeded):
		err = fmt.Errorf("the source has not answered yet (%w)", end)
	}
	if old != nil {
		err = fmt.Errorf("the last one expired at %s and could not be renewed: %w",
			old.cert.Leaf.NotAfter.UTC().Format(time.RFC3339), err)
	}
	return &SVIDError{ID: id, Err: err}
}

// Rotate fetches a new SVID for id now, without regard to back-off, and waits
// for it. Connections that are open keep the one they were made with.
func (m *Manager) Rotate(ctx context.Context, id spiffeid.ID) error {
	done := make(chan error, 1)
	m.mu.Lock()
	e := m.entries[id]
	if e == nil {
		m.mu.Unlock()
		return &SVIDError{ID: id, Err: ErrNotInUse}
	}
	e.rotations = append(e.rotations, done)
	signal(e.wake)
	m.mu.Unlock()

	select {
	case err := <-done:
		return err
	case <-e.gone:
		return &SVIDError{ID: id, Err: ErrNotInUse}
	case <-m.stopped:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

// CertificateInfo describes one identity in use.
type CertificateInfo struct {
	ID spiffeid.ID
	// Serial is the certificate's serial number in hexadecimal, "" while
	// there is no certificate.
	Serial              string
	NotBefore, NotAfter time.Time
	// NextAttempt is when the source is asked again, zero while it is asked.
	NextAttempt time.Time
	// LastError is that of the latest attempt, "" if it succeeded.
	LastError string
	// Failures counts the attempts since the latest success.
	Failures int
	// References counts the pods that use the identity.
	References int
}

// Certificates lists the identities in use, in order of their IDs.
func (m *Manager) Certificates() []CertificateInfo {
	m.mu.Lock()
	infos := make([]CertificateInfo, 0, len(m.entries))
	for id, e := range m.entries {
		info := CertificateInfo{ID: id, NextAttempt: e.next, Failures: e.failures, References: e.refs}
		if e.current != nil {
			leaf := e.current.cert.Leaf
			info.Serial = fmt.Sprintf("%x", leaf.SerialNumber)
			info.NotBefore, info.NotAfter = leaf.NotBefore, leaf.NotAfter
		}
		if e.err != nil {
			info.LastError = e.err.Error()
		}
		infos = append(infos, info)
	}
	m.mu.Unlock()

	slices.SortFunc(infos, func(a, b CertificateInfo) int { return cmp.Compare(a.ID.String(), b.ID.String()) })
	return infos
}

// signal sets a one-slot edge.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
