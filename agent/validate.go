package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/proxy"
)

// fault is a value that makes no sense.
type fault struct{ field, message string }

// faults are everything that is wrong with the values of c, in no order.
func (c Config) faults() []fault {
	v := validator{listeners: make(map[string]string)}
	td := v.trustDomain("trustDomain", c.TrustDomain)
	for i, alias := range c.TrustDomainAliases {
		field := index("trustDomainAliases", i)
		if a := v.trustDomain(field, alias); a == td && !td.IsZero() {
			v.add(field, "%s is the trust domain itself; remove it here", alias)
		}
	}
	v.world(c)
	v.ca(c)
	v.ingress(c, td)
	v.positive("ca.ttl", c.CA.TTL > 0)
	v.positive("dialTimeout", c.DialTimeout > 0)
	v.positive("halfCloseTimeout", c.HalfCloseTimeout > 0)
	v.positive("drainTimeout", c.DrainTimeout > 0)
	v.oneOf("sameNode", c.SameNode, "hbone", "direct")
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "text", "json")
	v.oneOf("accessLog.format", c.AccessLog.Format, "text", "json")
	v.admin(c.Admin)
	v.optionalListener("metrics", c.Metrics)
	v.optionalListener("readiness", c.Readiness)
	for i, e := range c.Encapsulate {
		v.encapsulate(index("encapsulate", i), td, e)
	}
	for i, t := range c.Terminate {
		v.terminate(index("terminate", i), td, t)
	}
	return v.faults
}

// world checks where the world comes from, and what needs a certain one.
func (v *validator) world(c Config) {
	kubernetes := c.World.Kubernetes != nil
	switch {
	case kubernetes && c.World.File != "":
		v.add("world.file", "the world comes from one place; remove this, or world.kubernetes")
	case !kubernetes && c.World.File == "" && len(c.Encapsulate) == 0 && len(c.Terminate) == 0 && c.Ingress == nil:
		v.add("world.file", "nothing to do: name a mesh file here, set world.kubernetes, or configure ingress, encapsulate or terminate")
	}
	if kubernetes && c.Capture && c.NodeName == "" {
		v.add("nodeName", "needed with world.kubernetes: it says whose pods are captured; in a DaemonSet pass --node-name=$(NODE_NAME)")
	}
	if c.CNI != nil && !kubernetes {
		v.add("cni", "needs world.kubernetes: only there are pods started by a container runtime")
	}
	if c.Probes && !kubernetes {
		v.add("probes", "needs world.kubernetes: only there is a kubelet")
	}
	v.absolute("sysctlRoot", c.SysctlRoot)
	if c.CNI != nil {
		v.absolute("cni.socket", c.CNI.Socket)
		v.absolute("cni.confDir", c.CNI.ConfDir)
		v.absolute("cni.binDir", c.CNI.BinDir)
		v.absolute("cni.binary", c.CNI.Binary)
	}
}

func (v *validator) absolute(field, value string) {
	if !filepath.IsAbs(value) {
		v.add(field, "%q is not an absolute path", value)
	}
}

// ca checks where certificates come from.
func (v *validator) ca(c Config) {
	if c.CA.Address == "" {
		for field, value := range map[string]string{"ca.rootConfigMap": c.CA.RootConfigMap, "ca.rootFile": c.CA.RootFile} {
			if value != "" {
				v.add(field, "is for a CA server; name it in ca.address, or remove this")
			}
		}
		return
	}
	v.hostPort("ca.address", c.CA.Address)
	if c.CA.Directory != "" {
		v.add("ca.directory", "is for the embedded CA, and ca.address names a server; remove one of them")
	}
	switch {
	case (c.CA.RootConfigMap == "") == (c.CA.RootFile == ""):
		v.add("ca.address", "set one of ca.rootConfigMap and ca.rootFile: without trusted roots the server cannot be known")
	case c.CA.RootConfigMap != "" && c.World.Kubernetes == nil:
		v.add("ca.rootConfigMap", "needs world.kubernetes; without it set ca.rootFile")
	case c.CA.RootConfigMap != "":
		if ns, name, ok := strings.Cut(c.CA.RootConfigMap, "/"); !ok || ns == "" || name == "" || strings.Contains(name, "/") {
			v.add("ca.rootConfigMap", "%q is not NAMESPACE/NAME", c.CA.RootConfigMap)
		}
	}
	if c.CA.TokenFile == "" {
		v.add("ca.tokenFile", "needed with ca.address")
	}
}

func index(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

type validator struct {
	faults    []fault
	listeners map[string]string // address to the field that has it
}

func (v *validator) add(field, format string, args ...any) {
	v.faults = append(v.faults, fault{field, fmt.Sprintf(format, args...)})
}

func (v *validator) positive(field string, ok bool) {
	if !ok {
		v.add(field, "must be more than zero")
	}
}

func (v *validator) oneOf(field, value string, known ...string) {
	if slices.Contains(known, value) {
		return
	}
	msg := fmt.Sprintf("%q is not one of %s", value, strings.Join(known, ", "))
	if near := nearest(value, known); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	v.add(field, "%s", msg)
}

func (v *validator) trustDomain(field, value string) spiffeid.TrustDomain {
	td, err := spiffeid.TrustDomainFromString(value)
	switch {
	case err != nil:
		v.add(field, "%q is not a trust domain: %v", value, err)
	case strings.Contains(value, "/"): // the parser takes whole IDs
		v.add(field, "%q: write the trust domain alone, as in %q", value, td.Name())
	}
	return td
}

// own checks an identity that this agent's CA is to issue.
func (v *validator) own(field, value string, td spiffeid.TrustDomain) {
	id, err := parseID(value)
	switch {
	case err != nil:
		v.add(field, "%v", err)
	case !td.IsZero() && !id.MemberOf(td):
		v.add(field, "%s is not of the trust domain %s, so this agent cannot have its certificate", id, td.Name())
	}
}

func (v *validator) ids(field string, values []string) {
	for i, value := range values {
		if _, err := parseID(value); err != nil {
			v.add(index(field, i), "%v", err)
		}
	}
}

func parseID(value string) (spiffeid.ID, error) {
	if value == "" {
		return spiffeid.ID{}, errors.New("want a SPIFFE ID such as spiffe://cluster.local/ns/default/sa/web")
	}
	id, err := spiffeid.FromString(value)
	if err != nil {
		return id, fmt.Errorf("%q is not a SPIFFE ID such as spiffe://cluster.local/ns/default/sa/web: %w", value, err)
	}
	return id, nil
}

func (v *validator) encapsulate(field string, td spiffeid.TrustDomain, e EncapsulateConfig) {
	v.listener(field+".listen", e.Listen)
	v.hostPort(field+".peer", e.Peer)
	if _, err := proxy.ParseTemplate(e.Authority); err != nil {
		v.add(field+".authority", "%v", err)
	} else if !strings.Contains(e.Authority, "%") {
		v.hostPort(field+".authority", e.Authority)
	}
	v.own(field+".identity", e.Identity, td)
	if len(e.Expect) == 0 {
		v.add(field+".expect", "name at least one identity that the peer may have; without it every peer is refused")
	}
	v.ids(field+".expect", e.Expect)
	for name, value := range e.Headers {
		if _, err := proxy.ParseHeaderTemplate(name, value); err != nil {
			v.add(field+".headers."+name, "%v", err)
		}
	}
}

func (v *validator) terminate(field string, td spiffeid.TrustDomain, t TerminateConfig) {
	v.listener(field+".listen", t.Listen)
	v.own(field+".identity", t.Identity, td)
	v.ids(field+".allow", t.Allow)
	if t.Upstream != "" {
		v.hostPort(field+".upstream", t.Upstream)
	}
}

func (v *validator) hostPort(field, value string) {
	host, port, err := net.SplitHostPort(value)
	switch {
	case err != nil || host == "":
		v.add(field, "%q is not host:port", value)
	case !portNumber(port):
		v.add(field, "%q: %q is not a port from 1 to 65535", value, port)
	}
}

func portNumber(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// listener checks an address to listen on, and that nobody else has it.
func (v *validator) listener(field, value string) {
	host, port, err := net.SplitHostPort(value)
	if err != nil {
		v.add(field, "%q is not an address to listen on, such as 127.0.0.1:10000 or \":10000\"", value)
		return
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil { // 0 is any free one
		v.add(field, "%q: %q is not a port from 0 to 65535", value, port)
		return
	}
	if host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			v.add(field, "%q: %q is not an IP address", value, host)
			return
		}
	}
	if port == "0" {
		return
	}
	if other, taken := v.listeners[value]; taken {
		v.add(field, "%s is the address of %s already", value, other)
		return
	}
	v.listeners[value] = field
}

func (v *validator) optionalListener(field, value string) {
	if value != "" {
		v.listener(field, value)
	}
}

func (v *validator) admin(value string) {
	if value == "" {
		return
	}
	v.listener("admin", value)
	host, _, err := net.SplitHostPort(value)
	if err != nil {
		return
	}
	if addr, err := netip.ParseAddr(host); err != nil || !addr.IsLoopback() {
		v.add("admin", "%q is not a loopback address; whoever reaches it can stop the agent, so use 127.0.0.1 or [::1]", value)
	}
}

// prefixes checks CIDRs.
func (v *validator) prefixes(field string, values []string) {
	for i, value := range values {
		if _, err := netip.ParsePrefix(value); err != nil {
			v.add(index(field, i), "%q is not a CIDR such as 10.0.0.0/8", value)
		}
	}
}
