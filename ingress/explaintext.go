package ingress

import (
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
)

// CertificateAnswer is what a client sees of a certificate.
type CertificateAnswer struct {
	Subject   string    `json:"subject"`
	Names     []string  `json:"names"`
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	SHA256    string    `json:"sha256"`
	// Problem is why a client would not take it. "" = nothing that we can see.
	Problem string `json:"problem,omitempty"`
}

// certificateAnswer is the first of t's certificates that fits sni, else the
// first. A client that supports only some algorithms may get another.
func certificateAnswer(t *TLSConfig, sni string) *CertificateAnswer {
	var first *CertificateAnswer
	for _, c := range t.Certificates {
		leaf := c.Leaf
		if leaf == nil {
			continue
		}
		sum := sha256.Sum256(leaf.Raw)
		a := &CertificateAnswer{
			Subject: leaf.Subject.String(), Names: leaf.DNSNames, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
			SHA256: hex.EncodeToString(sum[:]),
		}
		now := time.Now()
		switch {
		case now.After(leaf.NotAfter):
			a.Problem = "expired"
		case now.Before(leaf.NotBefore):
			a.Problem = "not valid yet"
		}
		if sni == "" || leaf.VerifyHostname(sni) == nil {
			return a
		}
		if first == nil {
			if a.Problem == "" {
				a.Problem = "not for " + sni
			}
			first = a
		}
	}
	return first
}

// demandText is what is asked of clients. "" = nothing.
func demandText(t *TLSConfig) string {
	switch clientAuth(t) {
	case tls.NoClientCert:
		return ""
	case tls.RequestClientCert:
		return "a certificate is asked for, and any or none is taken"
	}
	return "a certificate of the listener's CAs is required"
}

// matchText is a match on one line.
func matchText(m *route.Match) string {
	var parts []string
	switch p := &m.Path; p.Kind {
	case route.PathExact:
		parts = append(parts, "path = "+p.Value)
	case route.PathRegex:
		parts = append(parts, "path ~ "+p.Value)
	case route.PathPrefix:
		parts = append(parts, "path under "+cmp.Or(p.Value, "/"))
	default:
		parts = append(parts, "path ends in "+p.Value)
	}
	if m.Method != "" {
		parts = append(parts, "method = "+m.Method)
	}
	values := func(what string, all []route.ValueMatch) {
		for _, v := range all {
			if v.Regex != nil {
				parts = append(parts, fmt.Sprintf("%s %s ~ %s", what, v.Name, v.Regex))
			} else {
				parts = append(parts, fmt.Sprintf("%s %s = %s", what, v.Name, v.Value))
			}
		}
	}
	values("header", m.Headers)
	values("query", m.Query)
	return strings.Join(parts, ", ")
}

// filterText is what filters do, each on one line.
func filterText(f *proxy.Filters) (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if f.Invalid != "" {
		add("answer 500: %s", f.Invalid)
	}
	headers := func(what string, c *proxy.HeaderChange) {
		for _, h := range c.Set {
			add("set %s header %s", what, h.Name)
		}
		for _, h := range c.Add {
			add("add %s header %s", what, h.Name)
		}
		for _, n := range c.Remove {
			add("remove %s header %s", what, n)
		}
	}
	headers("request", &f.RequestHeaders)
	headers("response", &f.ResponseHeaders)
	path := func(p *proxy.Path) string {
		switch {
		case p.Prefix != nil:
			return " prefix " + cmp.Or(*p.Prefix, "/")
		case p.Full != "":
			return " path " + p.Full
		}
		return ""
	}
	if r := f.Redirect; r != nil {
		to := ""
		if r.Scheme != "" {
			to += " scheme " + r.Scheme
		}
		if r.Host != "" {
			to += " host " + r.Host
		}
		if r.Port != 0 {
			to += fmt.Sprintf(" port %d", r.Port)
		}
		add("redirect with %d to%s%s", r.Status, to, path(&r.Path))
	}
	if r := f.Rewrite; r != nil {
		host := ""
		if r.Host != "" {
			host = " host " + r.Host
		}
		add("rewrite to%s%s", host, path(&r.Path))
	}
	if f.CORS != nil {
		add("CORS")
	}
	for _, m := range f.Mirrors {
		share := "all"
		if m.Denominator > 0 {
			share = fmt.Sprintf("%d of %d", m.Numerator, m.Denominator)
		}
		add("mirror %s to %s", share, cmp.Or(m.Backend.Cluster, "nobody: "+m.Backend.Reason))
	}
	return all
}
