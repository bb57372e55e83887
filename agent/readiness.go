package agent

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// readiness is what the agent still waits for before it should get traffic, and
// what an operator should know although it does not wait for it.
type readiness struct {
	mu      sync.Mutex        // guards the fields below
	pending map[string]string // what to why
	failing map[string]string
	stopped bool
	// lasting: stopping is no reason not to be ready.
	lasting bool
}

func newReadiness() *readiness {
	return &readiness{pending: make(map[string]string), failing: make(map[string]string)}
}

// wait holds readiness up until done or fail is called for the same thing.
func (r *readiness) wait(what, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending[what] = why
}

// done: the thing is there.
func (r *readiness) done(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, what)
	delete(r.failing, what)
}

// fail: the thing is tried again, and holds nothing up meanwhile.
func (r *readiness) fail(what, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pending, what)
	r.failing[what] = why
}

// lasts is for a pod behind Services: that a pod stops, Kubernetes tells by itself
// (KEP-1669), and kube-proxy goes by readiness as well. It cuts UDP flows of pods
// that stop and are not ready, QUIC connections with requests under way among
// them, and sends nothing to them even where there is no other pod.
func (r *readiness) lasts() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lasting = true
}

// stopping: never ready again, unless it lasts.
func (r *readiness) stopping() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

func (r *readiness) state() (ready bool, detail []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		detail = append(detail, "stopping: the agent drains its connections")
		if !r.lasting {
			return false, detail
		}
	}
	for _, what := range slices.Sorted(maps.Keys(r.pending)) {
		detail = append(detail, "pending: "+what+": "+r.pending[what])
	}
	for _, what := range slices.Sorted(maps.Keys(r.failing)) {
		detail = append(detail, "failing: "+what+": "+r.failing[what])
	}
	return len(r.pending) == 0, detail
}

// ServeHTTP answers /healthz/ready: 200 if nothing is pending, 503 otherwise,
// with what is pending or failing, one a line.
func (r *readiness) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	ready, detail := r.state()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if ready {
		fmt.Fprintln(w, "ready")
	} else {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, "not ready")
	}
	for _, line := range detail {
		fmt.Fprintln(w, line)
	}
}
