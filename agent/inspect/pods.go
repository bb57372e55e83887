package inspect

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/adit-mesh/adit/agent/mesh"
)

// StateServing is the state of a pod that is captured and served. The other
// states are words for an operator.
const StateServing = "serving"

// Captured is what the agent does about one pod that it is to capture.
type Captured struct {
	UID      string // of its workload
	Identity string
	State    string
	Since    time.Time
	// Error is why the latest attempt to capture it failed, Attempts how many
	// have in a row.
	Error    string
	Attempts int
	// Repairs counts what somebody else changed of the pod's rules and the
	// agent put back; LastRepair is the latest.
	Repairs     int
	LastRepair  string
	Netns       string
	Inode       uint64
	Connections int
	// BypassInbound: plaintext reaches the application without the agent.
	BypassInbound bool
	// ProbePorts are open to kubelet's probes, whatever policy says.
	ProbePorts []uint16
}

// Pod is one pod of this node. GET /pods is all of them, captured or not.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"` // of its workload
	Node      string `json:"node,omitempty"`
	Enrolled  bool   `json:"enrolled"`
	// Reason is why a pod is not enrolled.
	Reason      string       `json:"reason,omitempty"`
	Addresses   []netip.Addr `json:"addresses,omitempty"`
	Identity    string       `json:"identity,omitempty"`
	State       string       `json:"state,omitempty"`
	Since       time.Time    `json:"since,omitzero"`
	Error       string       `json:"error,omitempty"`
	Attempts    int          `json:"failedAttempts,omitempty"`
	Repairs     int          `json:"captureRepairs,omitempty"`
	LastRepair  string       `json:"lastCaptureRepair,omitempty"`
	Netns       string       `json:"netns,omitempty"`
	Inode       uint64       `json:"netnsInode,omitempty"`
	Connections int          `json:"connections"`
	Certificate *Certificate `json:"certificate,omitempty"`
	// BypassInbound and ProbePorts are what comes in without policy.
	BypassInbound bool     `json:"bypassInbound,omitempty"`
	ProbePorts    []uint16 `json:"probePorts,omitempty"`
}

// ListPods lists the pods of this node, those that are not enrolled included,
// by namespace and name.
func (a *Agent) ListPods() []Pod {
	certificates := make(map[string]*Certificate)
	for _, c := range a.certificates() {
		shown := certificateOf(c)
		certificates[shown.Identity] = &shown
	}
	node := a.info().Node
	pods := []Pod{}
	for _, c := range a.captured() {
		p := Pod{
			UID: c.UID, Node: node, Enrolled: true, Identity: c.Identity, State: c.State, Since: c.Since,
			Error: c.Error, Attempts: c.Attempts, Repairs: c.Repairs, LastRepair: c.LastRepair,
			Netns: c.Netns, Inode: c.Inode, Connections: c.Connections, Certificate: certificates[c.Identity],
			BypassInbound: c.BypassInbound, ProbePorts: c.ProbePorts,
		}
		p.Namespace, p.Name = namesOf(c.UID)
		if w := a.Store.WorkloadByUID(c.UID); w != nil {
			p.Namespace, p.Name, p.Addresses = w.Namespace, cmp.Or(w.Name, p.Name), w.Addresses
		}
		pods = append(pods, p)
	}
	if a.Unenrolled != nil {
		for _, u := range a.Unenrolled() {
			p := Pod{Namespace: u.Namespace, Name: u.Name, UID: u.UID, Node: node, Reason: u.Reason}
			if w := a.Store.WorkloadByUID(u.UID); w != nil {
				p.Addresses = w.Addresses
			}
			pods = append(pods, p)
		}
	}
	slices.SortFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return pods
}

// namesOf reads the names in a uid of the form "cluster/group/Kind/namespace/name".
func namesOf(uid string) (namespace, name string) {
	parts := strings.Split(uid, "/")
	if len(parts) < 2 {
		return "", uid
	}
	return parts[len(parts)-2], parts[len(parts)-1]
}

// nameOf is "namespace/name" of a workload.
func nameOf(w *mesh.Workload) string {
	namespace, name := namesOf(w.UID)
	return cmp.Or(w.Namespace, namespace) + "/" + cmp.Or(w.Name, name)
}
