package agent

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway"
)

// EdgeStatus is GET /gateways: what the edge of an agent serves.
type EdgeStatus struct {
	Version string    `json:"version"`
	Node    string    `json:"node,omitempty"`
	Pod     string    `json:"pod,omitempty"`
	Now     time.Time `json:"now"`
	// Source is where Gateway API's objects come from: a directory, or Kubernetes.
	Source string `json:"source"`
	// Leading says that this one writes statuses and Services.
	Leading bool `json:"leading,omitempty"`
	// Problems are what could not be read.
	Problems []string `json:"problems,omitempty"`
	// Conditions are those of Gateway API's objects that are not as they should be.
	Conditions []EdgeCondition `json:"conditions,omitempty"`
	Served     ingress.Dump    `json:"served"`
}

// EdgeCondition is a condition in an object's status that somebody has to mend.
type EdgeCondition struct {
	Object  string `json:"object"` // KIND/NAMESPACE/NAME
	Of      string `json:"of,omitempty"`
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// String is for a person.
func (c EdgeCondition) String() string {
	of := ""
	if c.Of != "" {
		of = " (" + c.Of + ")"
	}
	return fmt.Sprintf("%s%s: %s is %s, %s: %s", c.Object, of, c.Type, c.Status, c.Reason, c.Message)
}

func (e *edge) status(ctx context.Context) EdgeStatus {
	a := e.agent
	s := EdgeStatus{Version: a.version(), Node: a.cfg.NodeName, Now: time.Now(), Source: e.cfg.Config, Served: e.server.Dump()}
	if a.opt.Self.Name != "" {
		s.Pod = a.opt.Self.Namespace + "/" + a.opt.Self.Name
	}
	var objects []runtime.Object
	if e.file != nil {
		objects = e.file.Statuses()
		for _, p := range e.file.Problems() {
			s.Problems = append(s.Problems, p.String())
		}
	}
	if e.kube != nil {
		objects = e.kube.Statuses(ctx)
		s.Source, s.Leading = "kubernetes", e.kube.Leading()
		for _, k := range e.kube.Kinds() {
			if k.Error != "" {
				s.Problems = append(s.Problems, k.Name+": "+k.Error)
			}
		}
	}
	for _, o := range objects {
		s.Conditions = append(s.Conditions, badConditions(o)...)
	}
	return s
}

func badConditions(o runtime.Object) []EdgeCondition {
	m, err := meta.Accessor(o)
	if err != nil {
		return nil
	}
	name := strings.TrimPrefix(fmt.Sprintf("%T", o), "*v1.")
	if kind := o.GetObjectKind().GroupVersionKind().Kind; kind != "" {
		name = kind
	}
	for _, part := range []string{m.GetNamespace(), m.GetName()} {
		if part != "" {
			name += "/" + part
		}
	}
	var out []EdgeCondition
	for _, c := range gateway.Conditions(o) {
		if c.Bad() {
			out = append(out, EdgeCondition{Object: name, Of: c.Of, Type: c.Type, Status: string(c.Status), Reason: c.Reason, Message: c.Message})
		}
	}
	return out
}

// registerEdge adds GET /gateways and GET /route to mux.
func (a *Agent) registerEdge(mux *http.ServeMux) {
	with := func(serve func(http.ResponseWriter, *http.Request, *edge)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if a.edge == nil {
				http.Error(w, "this agent has no ingress", http.StatusNotImplemented)
				return
			}
			serve(w, r, a.edge)
		}
	}
	mux.HandleFunc("GET /gateways", with(func(w http.ResponseWriter, r *http.Request, e *edge) { writeJSON(w, e.status(r.Context())) }))
	mux.HandleFunc("GET /route", with(serveRoute))
}

// serveRoute answers what would become of a request: ?url=…&gateway=…&host=…&
// sni=…&method=…&header=Name: value (repeatable).
func serveRoute(w http.ResponseWriter, r *http.Request, e *edge) {
	q := r.URL.Query()
	question := ingress.Question{
		URL: q.Get("url"), Gateway: q.Get("gateway"), Host: q.Get("host"), SNI: q.Get("sni"), Method: q.Get("method"),
		Header: make(http.Header),
	}
	if question.URL == "" {
		http.Error(w, "url is missing: ask for /route?url=https://HOST/PATH", http.StatusBadRequest)
		return
	}
	for _, h := range q["header"] {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			http.Error(w, "header "+h+": want NAME: VALUE", http.StatusBadRequest)
			return
		}
		question.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	writeJSON(w, e.server.Explain(question))
}
