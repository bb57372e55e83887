package inspect

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
	"github.com/adit-mesh/adit/agent/proxy"
	"github.com/adit-mesh/adit/identity"
)

// Agent is the running agent, as far as its operator may ask. Store is
// required; a nil function knows nothing. All are called concurrently, must not
// block, and give away what they return.
type Agent struct {
	Store *mesh.Store
	// Info describes the agent. The counts of its World are left to Status.
	Info func() Info
	// Pods are those that are to be captured.
	Pods func() []Captured
	// Unenrolled are the other pods of this node.
	Unenrolled   func() []Unenrolled
	Certificates func() []identity.CertificateInfo
	Connections  func() []proxy.ConnInfo
	// Now is the clock. nil = time.Now.
	Now func() time.Time
}

func (a *Agent) info() Info { return call(a.Info) }

func (a *Agent) captured() []Captured { return call(a.Pods) }

func (a *Agent) certificates() []identity.CertificateInfo { return call(a.Certificates) }

func (a *Agent) connections() []proxy.ConnInfo { return call(a.Connections) }

func call[T any](f func() T) (v T) {
	if f != nil {
		v = f()
	}
	return v
}

func (a *Agent) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

// Register adds GET /status, /pods, /connections and /why to mux. Who may ask
// is for the caller to decide.
func (a *Agent) Register(mux *http.ServeMux) {
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, a.Status()) })
	mux.HandleFunc("GET /pods", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, a.ListPods()) })
	mux.HandleFunc("GET /connections", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, a.ListConnections())
	})
	mux.HandleFunc("GET /why", a.why)
}

// why answers ?src=&dst= with an [Explanation], and the query of an [Arrival]
// with an [Inbound].
func (a *Agent) why(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var answer any
	var err error
	if query.Has("pod") {
		var arrival Arrival
		if arrival, err = ParseArrival(query); err == nil {
			answer = a.Receive(arrival)
		}
	} else {
		answer, err = a.Explain(query.Get("src"), query.Get("dst"))
	}
	if err != nil {
		refuse(w, err)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func refuse(w http.ResponseWriter, err error) {
	input := &InputError{Message: err.Error()}
	errors.As(err, &input)
	status := http.StatusBadRequest
	if input.NotFound {
		status = http.StatusNotFound
	}
	writeJSON(w, status, input)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client is gone
}
