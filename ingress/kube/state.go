package kube

import (
	"sync"
	"time"
)

// KindStatus is how one kind of object is followed.
type KindStatus struct {
	// Name is resource.group, as in "httproutes.gateway.networking.k8s.io"; core
	// kinds have no group.
	Name string
	// Present says that the API server has the kind. Until it has answered, that
	// is not known, and false.
	Present bool
	// Synced says that everything of this kind has been seen.
	Synced bool
	// Connected says that the API server answers.
	Connected bool
	Objects   int
	// LastContact is when the API server last sent anything of this kind. It
	// sends something at least every minute or so.
	LastContact time.Time
	// Error is why the kind is not followed, "" if it is.
	Error string
}

// kindState is the state of one kind.
type kindState struct {
	// settled is closed once it is known what there is of this kind, or that it
	// is not to be waited for.
	settled chan struct{}

	mu     sync.Mutex // guards all below
	status KindStatus
	once   bool // settled is closed
}

func newKindState(name string) *kindState {
	return &kindState{settled: make(chan struct{}), status: KindStatus{Name: name}}
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
	k.status.Error, k.status.LastContact = "", time.Now()
}

// lost notes that a watch has ended.
func (k *kindState) lost() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Connected = false
}

// seen notes that the API server has sent something; objects < 0: not one.
func (k *kindState) seen(objects int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.LastContact, k.status.Connected = time.Now(), true
	if objects >= 0 {
		k.status.Objects = objects
	}
}

// listed notes that everything has been seen.
func (k *kindState) listed() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status.Synced, k.status.Present = true, true
	k.settleLocked()
}

// absent notes that the API server does not have the kind.
func (k *kindState) absent() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status = KindStatus{
		Name: k.status.Name, Connected: true, LastContact: time.Now(),
		Error: "the API server does not have this kind; is its CRD installed?",
	}
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
