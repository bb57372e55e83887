package inspect

import (
	"time"

	"github.com/adit-mesh/adit/identity"
)

// Info is what an agent knows of itself.
type Info struct {
	Version string `json:"version"`
	Node    string `json:"node"`
	// Pod is the agent's own pod, "namespace/name", or "" outside Kubernetes.
	Pod     string    `json:"pod,omitempty"`
	Started time.Time `json:"started"`
	Ready   bool      `json:"ready"`
	// Readiness says what is waited for, and what fails and is tried again.
	Readiness []string `json:"readiness,omitempty"`
	// TrustDomains are those whose certificates the agent takes from peers.
	TrustDomains []string `json:"trustDomains"`
	// SameNode is how two pods of this node are joined: "hbone", or "direct"
	// inside the agent.
	SameNode string `json:"sameNode"`
	// CA is who issues the certificates.
	CA    string `json:"ca,omitempty"`
	World World  `json:"world"`
}

// World is where an agent learns of workloads, services and policies.
type World struct {
	// Source is "kubernetes" or "file".
	Source string `json:"source"`
	// Location is the address of the API server, or the path of the file.
	Location string `json:"location,omitempty"`
	// Synced: everything there was at the start has been read.
	Synced bool `json:"synced"`
	// Changed is when the world last changed, Contact when its source was last
	// heard of. Zero is not known.
	Changed time.Time `json:"changed,omitzero"`
	Contact time.Time `json:"contact,omitzero"`
	// Error is why the source cannot be read now. What was read before counts.
	Error string `json:"error,omitempty"`
	// Kinds are what is watched in Kubernetes.
	Kinds []Kind `json:"kinds,omitempty"`

	// Of the store; Status fills them in.
	Workloads int `json:"workloads"`
	Services  int `json:"services"`
	Policies  int `json:"policies"`
}

// Kind is one kind of Kubernetes object that an agent reads.
type Kind struct {
	// Name has the group, as AuthorizationPolicy.security.istio.io.
	Name string `json:"name"`
	// Seen is false while nothing of the kind can be read; Reason says why.
	Seen    bool      `json:"seen"`
	Reason  string    `json:"reason,omitempty"`
	Contact time.Time `json:"contact,omitzero"`
}

// Status is GET /status.
type Status struct {
	Info
	// Now is the agent's clock, by which ages are to be told.
	Now          time.Time     `json:"now"`
	Pods         PodCounts     `json:"pods"`
	Failing      []Pod         `json:"failing"`
	Unenrolled   []Unenrolled  `json:"unenrolled"`
	Certificates []Certificate `json:"certificates"`
}

// PodCounts counts the local pods.
type PodCounts struct {
	Enrolled    int `json:"enrolled"` // those that are to be captured
	Serving     int `json:"serving"`  // those of them that are
	Unenrolled  int `json:"unenrolled"`
	Connections int `json:"connections"`
}

// Unenrolled is a pod of this node that is not captured on purpose.
type Unenrolled struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"` // of its workload
	Reason    string `json:"reason"`
}

// Certificate is that of one identity in use. It holds no key.
type Certificate struct {
	Identity string `json:"identity"`
	// Serial is hexadecimal; "" while there is no certificate.
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	// NextAttempt is when the CA is asked again; zero while it is asked.
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	// LastError is that of the latest attempt, Failures how many have failed
	// in a row.
	LastError string `json:"lastError,omitempty"`
	Failures  int    `json:"failures,omitempty"`
	// Pods counts those that use it.
	Pods int `json:"pods"`
}

func certificateOf(c identity.CertificateInfo) Certificate {
	return Certificate{
		Identity: c.ID.String(), Serial: c.Serial, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		NextAttempt: c.NextAttempt, LastError: c.LastError, Failures: c.Failures, Pods: c.References,
	}
}

// Problem is why the certificate cannot be shown to a peer at an instant, ""
// if it can.
func (c Certificate) Problem(now time.Time) string {
	why := ""
	if c.LastError != "" {
		why = ": " + c.LastError
	}
	switch {
	case c.Serial == "":
		return "no certificate yet" + why
	case !now.Before(c.NotAfter):
		return "the certificate expired at " + c.NotAfter.UTC().Format(time.RFC3339) + why
	}
	return ""
}

// Status says how the agent is.
func (a *Agent) Status() Status {
	s := Status{Info: a.info(), Now: a.now(), Failing: []Pod{}, Unenrolled: []Unenrolled{}, Certificates: []Certificate{}}
	world := a.Store.World()
	s.World.Workloads, s.World.Services, s.World.Policies = len(world.Workloads), len(world.Services), len(world.Policies)
	for _, p := range a.ListPods() {
		if !p.Enrolled {
			s.Pods.Unenrolled++
			s.Unenrolled = append(s.Unenrolled, Unenrolled{Namespace: p.Namespace, Name: p.Name, UID: p.UID, Reason: p.Reason})
			continue
		}
		s.Pods.Enrolled++
		s.Pods.Connections += p.Connections
		if p.State == StateServing {
			s.Pods.Serving++
		}
		if p.State != StateServing || p.Error != "" {
			s.Failing = append(s.Failing, p)
		}
	}
	for _, c := range a.certificates() {
		s.Certificates = append(s.Certificates, certificateOf(c))
	}
	return s
}
