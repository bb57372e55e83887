package kube

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// localPart is what is kept of a pod of this node in addition: what its
// capture needs.
type localPart struct {
	probePorts []uint16
	dns        *bool
	ingress    bool
	reroute    []string
	owner      podOwner
	// staticUID is kubelet's own UID of a pod that it made from a file, by which
	// its sandbox and cgroups are known. "" = the UID of the API.
	staticUID string
}

// podOwner is the controller of a pod.
type podOwner struct{ kind, name string }

func newLocalPart(p *corev1.Pod) *localPart {
	l := &localPart{probePorts: probePorts(&p.Spec)}
	if v, ok := p.Annotations[annotation.AmbientDnsCapture.Name]; ok {
		if on, err := strconv.ParseBool(v); err == nil {
			l.dns = &on
		}
	}
	// Anything but a clear yes captures.
	l.ingress, _ = strconv.ParseBool(p.Annotations[annotation.AmbientBypassInboundCapture.Name])
	for name := range strings.SplitSeq(p.Annotations[annotation.IoIstioRerouteVirtualInterfaces.Name], ",") {
		if name = strings.TrimSpace(name); name != "" {
			l.reroute = append(l.reroute, name)
		}
	}
	for i := range p.OwnerReferences {
		if o := &p.OwnerReferences[i]; o.Controller != nil && *o.Controller {
			l.owner = podOwner{o.Kind, o.Name}
		}
	}
	if l.owner.kind == "Node" && isHash(p.Annotations[corev1.MirrorPodAnnotationKey]) {
		l.staticUID = p.Annotations[corev1.MirrorPodAnnotationKey]
	}
	return l
}

// isHash reports whether s has the form of kubelet's own UIDs, which is not
// that of the API server's: nobody can pass for another pod by an annotation.
func isHash(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 32
}

// probePorts are the ports of the pod that kubelet connects to. Of init
// containers only those that go on running may have probes.
func probePorts(spec *corev1.PodSpec) []uint16 {
	var out []uint16
	add := func(c *corev1.Container, port intstr.IntOrString, host string) {
		if host != "" && !isPodHost(host) {
			return // kubelet asks somebody else
		}
		if n, ok := containerPort(c, port); ok && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for _, list := range [2][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			c := &list[i]
			for _, probe := range [...]*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
				switch {
				case probe == nil:
				case probe.HTTPGet != nil:
					add(c, probe.HTTPGet.Port, probe.HTTPGet.Host)
				case probe.TCPSocket != nil:
					add(c, probe.TCPSocket.Port, probe.TCPSocket.Host)
				case probe.GRPC != nil:
					add(c, intstr.FromInt32(probe.GRPC.Port), "")
				}
			}
			if c.Lifecycle == nil {
				continue
			}
			for _, hook := range [...]*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
				switch {
				case hook == nil:
				case hook.HTTPGet != nil:
					add(c, hook.HTTPGet.Port, hook.HTTPGet.Host)
				case hook.TCPSocket != nil:
					add(c, hook.TCPSocket.Port, hook.TCPSocket.Host)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// isPodHost reports whether a probe's host may be the pod itself. A name may,
// by what it resolves to; of an address it is not known here, and a pod of its
// own has no use for naming it.
func isPodHost(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil
}

// containerPort resolves a probe's port in its container, as kubelet does: a
// name that no container port has may be a number in quotes.
func containerPort(c *corev1.Container, port intstr.IntOrString) (uint16, bool) {
	n := int64(port.IntVal)
	if port.Type == intstr.String {
		n = 0
		for i := range c.Ports {
			if c.Ports[i].Name == port.StrVal {
				n = int64(c.Ports[i].ContainerPort)
			}
		}
		if n == 0 {
			n, _ = strconv.ParseInt(port.StrVal, 10, 32)
		}
	}
	if n < 1 || n > 65535 {
		return 0, false
	}
	return uint16(n), true
}
