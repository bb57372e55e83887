package agent

import (
	"cmp"
	"time"

	"github.com/adit-mesh/adit/agent/inspect"
)

// inspected is the agent as its operator may ask about it.
func (a *Agent) inspected() *inspect.Agent {
	started := time.Now()
	return &inspect.Agent{
		Store: a.store,
		Info: func() inspect.Info {
			info := inspect.Info{
				Version: a.version(), Node: a.cfg.NodeName, Started: started,
				TrustDomains: append([]string{a.cfg.TrustDomain}, a.cfg.TrustDomainAliases...),
				SameNode:     a.cfg.SameNode, CA: a.issuer.name, World: a.world(),
			}
			if a.opt.Self.Name != "" {
				info.Pod = a.opt.Self.Namespace + "/" + a.opt.Self.Name
			}
			info.Ready, info.Readiness = a.ready.state()
			return info
		},
		Pods:         a.capturedPods,
		Unenrolled:   a.unenrolledPods,
		Certificates: a.ids.Certificates,
		Connections:  a.proxy.Connections,
	}
}

func (a *Agent) capturedPods() []inspect.Captured {
	var list []inspect.Captured
	for _, p := range a.pods.Status() {
		list = append(list, inspect.Captured{
			UID: p.UID, Identity: p.Identity, State: string(p.State), Since: p.Since, Error: p.Error, Attempts: p.Attempts,
			Repairs: p.Repairs, LastRepair: p.LastRepair, Netns: p.Netns, Inode: p.Inode, Connections: p.Connections,
			BypassInbound: p.BypassInbound, ProbePorts: p.ProbePorts,
		})
	}
	return list
}

func (a *Agent) unenrolledPods() []inspect.Unenrolled {
	if a.kube == nil || a.kube.enrol == nil {
		return nil
	}
	var list []inspect.Unenrolled
	for _, p := range a.kube.enrol.Status() {
		list = append(list, inspect.Unenrolled{
			Namespace: p.Ref.Namespace, Name: p.Ref.Name, Reason: p.Reason,
			UID: a.cfg.World.Kubernetes.ClusterID + "//Pod/" + p.Ref.Namespace + "/" + p.Ref.Name,
		})
	}
	return list
}

// world is where the agent learns of the mesh.
func (a *Agent) world() inspect.World {
	if a.kube == nil {
		return inspect.World{Source: "file", Location: a.cfg.World.File, Synced: true}
	}
	w := inspect.World{Source: "kubernetes", Location: a.kube.location}
	select {
	case <-a.kube.source.Synced():
		w.Synced = true
	default:
	}
	for _, k := range a.kube.source.Kinds() {
		w.Kinds = append(w.Kinds, inspect.Kind{Name: k.Name, Seen: k.Present, Reason: k.Error, Contact: k.LastContact})
		if k.Present {
			w.Error = cmp.Or(w.Error, k.Error)
		}
		if k.LastContact.After(w.Contact) {
			w.Contact = k.LastContact
		}
	}
	return w
}
