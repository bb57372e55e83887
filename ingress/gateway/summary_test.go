package gateway

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/ingress"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func newReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }

// placedAll is a Placement for every Gateway.
func placedAll(t *Translator) map[types.NamespacedName]Placement {
	placed := make(map[types.NamespacedName]Placement)
	for name, g := range t.gateways {
		p := Placement{}
		for _, a := range g.obj.Spec.Addresses {
			p.Addresses = append(p.Addresses, gatewayv1.GatewayStatusAddress{Type: new(addressType(a.Type)), Value: cmp.Or(a.Value, "192.0.2.7")})
		}
		if p.Addresses == nil {
			p.Addresses = []gatewayv1.GatewayStatusAddress{{Type: new(gatewayv1.IPAddressType), Value: "192.0.2.7"}}
		}
		placed[name] = p
	}
	return placed
}

// summary is statuses in words.
func summary(list []Status) string {
	var b strings.Builder
	for _, s := range list {
		fmt.Fprintf(&b, "%s %s\n", s.Kind, strings.TrimPrefix(s.Namespace+"/"+s.Name, "/"))
		switch {
		case s.Class != nil:
			writeConditions(&b, "  ", s.Class.Conditions)
		case s.Gateway != nil:
			for _, a := range s.Gateway.Addresses {
				fmt.Fprintf(&b, "  address %s\n", a.Value)
			}
			if n := *s.Gateway.AttachedListenerSets; n > 0 {
				fmt.Fprintf(&b, "  attached ListenerSets: %d\n", n)
			}
			writeConditions(&b, "  ", s.Gateway.Conditions)
			for _, l := range s.Gateway.Listeners {
				writeListener(&b, string(l.Name), l.SupportedKinds, l.AttachedRoutes, l.Conditions)
			}
		case s.ListenerSet != nil:
			writeConditions(&b, "  ", s.ListenerSet.Conditions)
			for _, l := range s.ListenerSet.Listeners {
				writeListener(&b, string(l.Name), l.SupportedKinds, l.AttachedRoutes, l.Conditions)
			}
		}
		for _, p := range s.Parents {
			fmt.Fprintf(&b, "  parent %s by %s\n", refText(p.ParentRef), p.ControllerName)
			writeConditions(&b, "    ", p.Conditions)
		}
		for _, a := range s.Ancestors {
			fmt.Fprintf(&b, "  ancestor %s by %s\n", refText(a.AncestorRef), a.ControllerName)
			writeConditions(&b, "    ", a.Conditions)
		}
	}
	return b.String()
}

func refText(r gatewayv1.ParentReference) string {
	text := value(r.Kind)
	if text == "" {
		text = kindGateway
	}
	if r.Namespace != nil {
		text += " " + gatewayv1.Kind(*r.Namespace) + "/"
	} else {
		text += " "
	}
	text += gatewayv1.Kind(r.Name)
	if r.SectionName != nil {
		text += gatewayv1.Kind("#" + *r.SectionName)
	}
	if r.Port != nil {
		text += gatewayv1.Kind(fmt.Sprintf(":%d", *r.Port))
	}
	return string(text)
}

func writeListener(b *strings.Builder, name string, kinds []gatewayv1.RouteGroupKind, attached int32, list []metav1.Condition) {
	var names []string
	for _, k := range kinds {
		names = append(names, string(k.Kind))
	}
	fmt.Fprintf(b, "  listener %s: %v attached %d\n", name, names, attached)
	writeConditions(b, "    ", list)
}

// writeConditions leaves out what a condition says when all is well.
func writeConditions(b *strings.Builder, indent string, list []metav1.Condition) {
	for _, c := range list {
		good := metav1.ConditionTrue
		if c.Type == string(gatewayv1.ListenerConditionConflicted) {
			good = metav1.ConditionFalse
		}
		fmt.Fprintf(b, "%s%s %s", indent, c.Type, c.Status)
		if c.Status != good || c.Reason != c.Type && c.Reason != string(gatewayv1.ListenerReasonNoConflicts) || strings.Contains(c.Message, ";") {
			fmt.Fprintf(b, " %s: %s", c.Reason, c.Message)
		}
		b.WriteByte('\n')
	}
}

// configSummary is a Config in words.
func configSummary(c *ingress.Config) string {
	var b strings.Builder
	for _, p := range c.Ports {
		fmt.Fprintf(&b, "port %d", p.Public)
		if p.Bind.Port != p.Public {
			fmt.Fprintf(&b, " at %d", p.Bind.Port)
		}
		if p.Bind.UDP {
			b.WriteString(" udp")
		}
		fmt.Fprintf(&b, " of %s", p.Gateway)
		if p.QUIC != (ingress.QUIC{}) {
			fmt.Fprintf(&b, " quic %+v", p.QUIC)
		}
		b.WriteByte('\n')
		for _, l := range p.Listeners {
			fmt.Fprintf(&b, "  %s#%s protocol %d host %q\n", l.Owner, l.Name, l.Protocol, l.Hostname)
			if t := l.TLS; t != nil {
				b.WriteString("    tls")
				for _, c := range t.Certificates {
					fmt.Fprintf(&b, " %s", c.Leaf.Subject.CommonName)
				}
				if t.ClientCAs != nil {
					b.WriteString(" verifies clients")
				}
				if t.AllowInvalid {
					b.WriteString(" or not")
				}
				if t.MinVersion != 0 {
					fmt.Fprintf(&b, " from %s", tls.VersionName(t.MinVersion))
				}
				b.WriteByte('\n')
			}
			for _, line := range tableLines(l) {
				fmt.Fprintf(&b, "    %s\n", line)
			}
			for _, s := range l.Streams {
				fmt.Fprintf(&b, "    %s %s/%s %q terminate %t to %v\n", s.Owner.Kind, s.Owner.Namespace, s.Owner.Name, s.Hostnames, s.Terminate, s.Backends)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.Clusters)) {
		u := c.Clusters[key]
		fmt.Fprintf(&b, "cluster %s endpoints %d", key, len(u.Endpoints))
		if u.TLS != nil {
			fmt.Fprintf(&b, " tls to %s", u.TLS.ServerName)
			if u.TLS.Certificate != nil {
				b.WriteString(" with a certificate")
			}
			if u.TLS.Invalid != "" {
				b.WriteString(" invalid")
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// tableLines are the entries of a listener's table, by host.
func tableLines(l *ingress.Listener) []string {
	if l.Routes == nil {
		return nil
	}
	var lines []string
	for e := range l.Routes.All() {
		b := &strings.Builder{}
		fmt.Fprintf(b, "%q %d %s %s => %s/%s#%d.%d", e.Host, e.Match.Path.Kind, e.Match.Path.Value, e.Match.Method, e.Owner.Kind, e.Owner.Name, e.Rule, e.Index)
		for _, k := range e.Value.Backends {
			fmt.Fprintf(b, " %s", k.Cluster)
			if k.Status != 0 {
				fmt.Fprintf(b, "(%d)", k.Status)
			}
			fmt.Fprintf(b, "*%d", k.Weight)
		}
		lines = append(lines, b.String())
	}
	return lines
}
