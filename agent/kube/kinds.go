package kube

import (
	"sync"
	"time"
)

// KindStatus is how one kind of object is followed.
type KindStatus struct {
	// Name is resource.group, as in "authorizationpolicies.security.istio.io";
	// core kinds have no group.
	Name string
	// Present says that the API server has the kind. Until it has answered, that
	// is not known, and false.
	Present bool
	// Synced says that everything of this kind has been seen.
	Synced bool
	// Connected says that the API server answers: it is being listened to.
	Connected bool
	// Objects is how many there are.
	Objects int
	// LastContact is when the API server last sent anything of this kind. It
	// sends something at least every minute or so.
	LastContact time.Time
	// Error is why the kind is not followed, "" if it is.
	Error string
}

// kindState is the state of one kind.
type kindState struct {
	name string
	now  func() time.Time
	// settled is closed once it is known what there is of this kind, or that
	// there is nothing to know.
	settled chan struct{}

	mu     sync.Mutex // guards all below
	status KindStatus
	once   bool // settled is closed
}

func newKindState(name string, present bool) *kindState {
	return &kindState{
		name:    name,
		now:     time.Now,
		settled: make(chan struct{}),
		status:  KindStatus{Name: name, Present: present},
	}
}

func (k *kindState) get() KindStatus {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
}

// asked notes the outcome of a request.
func (k *kindState) asked(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Connected = err == nil
	if err != nil {
		k.status.Error = err.Error()
		return
	}
	k.status.Error = ""
	k.status.LastContact = k.now()
}

// lost notes that a watch has ended.
func (k *kindState) lost() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Connected = false
}

// heard notes that the API server has sent something.
func (k *kindState) heard() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.LastContact, k.status.Connected = k.now(), true
}

func (k *kindState) seen(objects int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.LastContact, k.status.Connected, k.status.Objects = k.now(), true, objects
}

// listed notes that everything has been seen.
func (k *kindState) listed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Synced, k.status.Present = true, true
	k.settleLocked()
}

// absent notes that the API server does not have the kind, for a reason.
func (k *kindState) absent(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status = KindStatus{Name: k.name, Connected: true, LastContact: k.now(), Error: reason}
	k.settleLocked()
}

// giveUp notes that the kind is not to be waited for.
func (k *kindState) giveUp() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.settleLocked()
}

func (k *kindState) settleLocked() {
	if !k.once {
		k.once = true
		close(k.settled)
	}
}
