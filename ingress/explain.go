package ingress

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
)

// Question is a request that nobody sends: Explain says what would become of it.
type Question struct {
	// URL is http:// or https://, with the host and path. Its port is that of the
	// Gateway's listener.
	URL string `json:"url"`
	// Gateway is namespace/name. "" = every one that has the port.
	Gateway string `json:"gateway,omitempty"`
	// Host is the Host header. "" = the URL's.
	Host string `json:"host,omitempty"`
	// SNI is the server name of the handshake. "" = the URL's host.
	SNI    string      `json:"sni,omitempty"`
	Method string      `json:"method,omitempty"` // "" = GET
	Header http.Header `json:"header,omitempty"`
}

// Answer is what the Server would do, by the same functions that live traffic goes
// through.
type Answer struct {
	Scheme string       `json:"scheme"`
	Host   string       `json:"host"`
	SNI    string       `json:"sni,omitempty"`
	Path   string       `json:"path"`
	Ports  []PortAnswer `json:"ports"` // one for each Gateway that has the port
	// Problem says why there is none. "" = there is.
	Problem string `json:"problem,omitempty"`
}

// PortAnswer is what one port would do.
type PortAnswer struct {
	Gateway string `json:"gateway"`
	Port    uint16 `json:"port"`
	Bind    string `json:"bind"`
	// Socket is why it is not open. "" = it is.
	Socket string     `json:"socket,omitempty"`
	AltSvc string     `json:"altSvc,omitempty"`
	TLS    *TLSAnswer `json:"tls,omitempty"`
	// Listener serves the request, or would if Status were not set.
	Listener *ListenerAnswer `json:"listener,omitempty"`
	// Status is what is answered without a rule, for Reason. 0 = there is a rule.
	Status int         `json:"status,omitempty"`
	Reason string      `json:"reason,omitempty"`
	Rule   *RuleAnswer `json:"rule,omitempty"`
	// Stream is the TCPRoute of a TCP listener.
	Stream *StreamAnswer `json:"stream,omitempty"`
	// Others are the routes that come after, or nearly matched.
	Others []CandidateAnswer `json:"others,omitempty"`
}

// ListenerAnswer names a listener.
type ListenerAnswer struct {
	Owner    string `json:"owner"`
	Name     string `json:"name"`
	Hostname string `json:"hostname"`
}

// TLSAnswer is the TLS decision.
type TLSAnswer struct {
	Listener *ListenerAnswer `json:"listener,omitempty"`
	// Outcome is terminated, passed through, or refused and why.
	Outcome     string             `json:"outcome"`
	Certificate *CertificateAnswer `json:"certificate,omitempty"`
	// Clients says what is asked of them. "" = nothing.
	Clients string `json:"clients,omitempty"`
	// Stream is the TLSRoute, and where it leads.
	Stream *StreamAnswer `json:"stream,omitempty"`
}

// StreamAnswer is a StreamRoute.
type StreamAnswer struct {
	Route    string          `json:"route"`
	Hosts    []string        `json:"hosts,omitempty"`
	Backends []BackendAnswer `json:"backends"`
}

// RuleAnswer is the rule that a request is for.
type RuleAnswer struct {
	Route    string          `json:"route"`
	Rule     int             `json:"rule"`
	Name     string          `json:"name,omitempty"`
	Host     string          `json:"host"`
	Match    string          `json:"match"`
	Filters  []string        `json:"filters,omitempty"`
	Timeouts string          `json:"timeouts,omitempty"`
	Retry    string          `json:"retry,omitempty"`
	Backends []BackendAnswer `json:"backends"`
}

// BackendAnswer is one of several places to go to.
type BackendAnswer struct {
	Cluster string `json:"cluster"`
	Weight  int32  `json:"weight"`
	// Problem is why it cannot be reached. "" = it has Endpoints.
	Problem   string   `json:"problem,omitempty"`
	Endpoints []string `json:"endpoints,omitempty"`
	TLS       bool     `json:"tls,omitempty"`
	Filters   []string `json:"filters,omitempty"`
}

// CandidateAnswer is a route that is not the one.
type CandidateAnswer struct {
	Route string `json:"route"`
	Host  string `json:"host"`
	Match string `json:"match"`
	Rule  int    `json:"rule"`
	// Matches says that it would be for the request if the others were not.
	Matches bool `json:"matches"`
	// Failed are the conditions that do not hold.
	Failed []string `json:"failed,omitempty"`
	// Never names the route that takes every request away from it. "" = none.
	Never string `json:"never,omitempty"`
}

// Explain says what would become of a request.
func (s *Server) Explain(q Question) Answer {
	u, err := url.Parse(q.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Answer{Problem: fmt.Sprintf("%q is no URL of http or https; write https://HOST/PATH", q.URL)}
	}
	port := uint16(80)
	if u.Scheme == "https" {
		port = 443
	}
	if p, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		port = uint16(p)
	}
	r := &http.Request{
		Method: cmp.Or(q.Method, http.MethodGet), URL: u, Proto: "HTTP/1.1", ProtoMajor: 1,
		Header: q.Header, Host: cmp.Or(q.Host, u.Host),
	}
	a := Answer{Scheme: u.Scheme, Host: r.Host, Path: u.EscapedPath()}
	if u.Scheme == "https" {
		if a.SNI = normaliseSNI(cmp.Or(q.SNI, u.Hostname())); net.ParseIP(a.SNI) != nil {
			a.SNI = "" // clients send none of an address (RFC 6066 section 3)
		}
	}
	applied := s.Applied()
	cfg := s.config.Load()
	for _, p := range cfg.Ports {
		if p.Public != port || p.Bind.UDP || q.Gateway != "" && q.Gateway != p.Gateway {
			continue
		}
		a.Ports = append(a.Ports, s.explainPort(cfg, p, a.SNI, r.Clone(r.Context()), applied))
	}
	if len(a.Ports) == 0 {
		a.Problem = fmt.Sprintf("no Gateway has a listener on port %d", port)
		if q.Gateway != "" {
			a.Problem = fmt.Sprintf("Gateway %s has no listener on port %d, or is not served here", q.Gateway, port)
		}
	}
	return a
}

func (s *Server) explainPort(cfg *Config, p *Port, sni string, r *http.Request, applied Applied) PortAnswer {
	a := PortAnswer{Gateway: p.Gateway, Port: p.Public, Bind: p.Bind.String()}
	if err := applied.Failed[p.Bind]; err != nil {
		a.Socket = err.Error()
	}
	x, serving := s.indexOf(p)
	secure := r.URL.Scheme == "https"
	var was *policy
	switch {
	case x.stream != nil:
		a.Listener = listenerAnswer(x.stream)
		a.Reason = "a TCP listener: bytes are carried as they are"
		if r := x.stream.streamRoute(); r != nil {
			a.Stream = &StreamAnswer{Route: owner(r), Backends: streamBackends(cfg, r)}
		}
		return a
	case secure && !x.hasSecure, !secure && !x.hasPlain:
		a.Status = http.StatusBadRequest
		a.Reason = fmt.Sprintf("the port has no listener for %s", r.URL.Scheme)
		return a
	case secure:
		d := x.decide(sni, overTCP)
		a.TLS = tlsAnswer(cfg, d, sni)
		if d.refused != "" || d.stream != nil {
			return a
		}
		was = d.policy
		a.AltSvc = x.altSvc(serving)
	}
	host, ok := normaliseHost(r.Host)
	no := badHost
	var st *site
	if ok {
		st, no = x.siteFor(host, secure, sni, was)
	}
	if st != nil {
		a.Listener = listenerAnswer(st)
	}
	if no == nil {
		no = tidy(r)
	}
	if no == nil {
		a.candidates(cfg, st.Routes, host, r)
		if a.Rule == nil {
			no = noRule
		}
	}
	if no != nil {
		a.Status, a.Reason = no.status, no.detail
	}
	return a
}

// indexOf is the index that serves p, or would.
func (s *Server) indexOf(p *Port) (x *index, serving bool) {
	s.applying.Lock()
	lp := s.ports[p.Bind]
	s.applying.Unlock()
	if lp != nil {
		if x := lp.index.Load(); x != nil && x.port == p {
			return x, lp.serving.Load()
		}
	}
	return newIndex(p, nil, s.keys), false
}

// candidates fills in the rule that matches, and the others.
func (a *PortAnswer) candidates(cfg *Config, t *route.Table[*proxy.Rule], host string, r *http.Request) {
	q := routeRequest(host, r)
	won, _ := t.Match(&q)
	for _, c := range t.Explain(&q) {
		if c.Entry == won {
			a.Rule = ruleAnswer(cfg, c.Entry)
			continue
		}
		o := CandidateAnswer{
			Route: ownerText(c.Entry.Owner), Rule: c.Entry.Rule, Host: c.Entry.Host,
			Match: matchText(&c.Entry.Match), Matches: c.Matched, Failed: c.Failed,
		}
		if c.Shadowed != nil {
			o.Never = fmt.Sprintf("%s rule %d", ownerText(c.Shadowed.Owner), c.Shadowed.Rule)
		}
		a.Others = append(a.Others, o)
	}
}

func listenerAnswer(s *site) *ListenerAnswer {
	return &ListenerAnswer{Owner: s.Owner, Name: s.Name, Hostname: s.Hostname}
}

func tlsAnswer(cfg *Config, d decision, sni string) *TLSAnswer {
	a := &TLSAnswer{}
	if d.site != nil {
		a.Listener = listenerAnswer(d.site)
	}
	switch {
	case d.refused != "":
		a.Outcome = "refused: " + refusedText[d.refused]
	case d.through:
		a.Outcome = "passed through"
	default:
		a.Outcome = "terminated"
		a.Certificate = certificateAnswer(d.site.TLS, sni)
		a.Clients = demandText(d.site.TLS)
	}
	if d.stream != nil {
		a.Stream = &StreamAnswer{Route: owner(d.stream), Hosts: d.stream.Hostnames, Backends: streamBackends(cfg, d.stream)}
	}
	return a
}

var refusedText = map[HandshakeReason]string{
	FailedNoListener:    "no listener of the port has this server name",
	FailedNoRoute:       "no TLSRoute of the listener has this server name",
	FailedNoCertificate: "the listener has no usable certificate; see its ResolvedRefs condition",
	FailedNotHTTP:       "a TLS listener is not served over QUIC",
}

func streamBackends(cfg *Config, r *StreamRoute) (all []BackendAnswer) {
	for _, b := range r.Backends {
		a := clusterAnswer(cfg, b.Cluster)
		a.Weight = b.Weight
		all = append(all, a)
	}
	return all
}

func ruleAnswer(cfg *Config, e *route.Entry[*proxy.Rule]) *RuleAnswer {
	r := e.Value
	a := &RuleAnswer{
		Route: ownerText(e.Owner), Rule: e.Rule, Name: r.Name, Host: cmp.Or(e.Host, "*"),
		Match: matchText(&e.Match), Filters: filterText(&r.Filters),
	}
	if r.RequestTimeout != 0 || r.BackendTimeout != 0 {
		a.Timeouts = fmt.Sprintf("request %s, backend %s", r.RequestTimeout, r.BackendTimeout)
	}
	if r.Retry != nil {
		a.Retry = fmt.Sprintf("%d times on %v", r.Retry.Attempts, r.Retry.Codes)
	}
	for i := range r.Backends {
		b := &r.Backends[i]
		ba := clusterAnswer(cfg, b.Cluster)
		ba.Weight, ba.Filters = b.Weight, filterText(&b.Filters)
		if b.Cluster == "" {
			ba.Problem = fmt.Sprintf("%d: %s", b.Status, b.Reason)
		}
		a.Backends = append(a.Backends, ba)
	}
	return a
}

func clusterAnswer(cfg *Config, key string) BackendAnswer {
	a := BackendAnswer{Cluster: key}
	c := cfg.Clusters[key]
	switch {
	case key == "":
		a.Problem = "the reference does not resolve"
	case c == nil:
		a.Problem = "unknown"
	case len(c.Endpoints) == 0:
		a.Problem = "503: no endpoints: does the Service select a ready pod?"
	}
	if c == nil {
		return a
	}
	for _, e := range c.Endpoints {
		if e.Host != "" {
			a.Endpoints = append(a.Endpoints, net.JoinHostPort(e.Host, strconv.Itoa(int(cmp.Or(e.Port, e.Addr.Port())))))
			continue
		}
		a.Endpoints = append(a.Endpoints, e.Addr.String())
	}
	slices.Sort(a.Endpoints)
	if a.TLS = c.TLS != nil; a.TLS && c.TLS.Invalid != "" {
		a.Problem = c.TLS.Invalid
	}
	return a
}

func ownerText(o route.Owner) string { return strings.Join([]string{o.Kind, o.Namespace, o.Name}, "/") }
