package proxy

import (
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// sticky is the session that a client's token tells of, or that it is given.
type sticky struct {
	endpoint string // "" = none
	begun    time.Time
	// renew says that the client needs a token: it has none, or one that is over
	// or of an endpoint that is gone.
	renew bool
}

// resume reads the client's token, and returns the backend that its session is
// with. A session stays with its backend even if that has no weight any more, so
// that a canary can be drained (GEP-1619, Traffic Splitting).
func (t *transaction) resume() *Backend {
	ps := t.rule.Persistence
	t.sticky.renew = true
	now := t.x.Start
	for _, token := range tokens(t.r, ps) {
		cluster, endpoint, begun, used, ok := parseToken(token)
		if !ok || begun.After(now.Add(time.Minute)) ||
			ps.Absolute > 0 && now.Sub(begun) >= ps.Absolute ||
			ps.Idle > 0 && now.Sub(used) >= ps.Idle {
			continue
		}
		for i := range t.rule.Backends {
			if b := &t.rule.Backends[i]; b.Cluster == cluster {
				t.sticky = sticky{endpoint: endpoint, begun: begun, renew: ps.Idle > 0}
				return b
			}
		}
	}
	return nil
}

// tokens returns what the client sent under the session's name. Somebody else's
// cookie may have the same name, so all are looked at.
func tokens(r *http.Request, ps *Persistence) []string {
	if ps.Header != "" {
		return r.Header[ps.Header]
	}
	var found []string
	for _, line := range r.Header["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			if name, v, ok := strings.Cut(strings.Trim(part, " \t"), "="); ok && name == ps.Cookie {
				found = append(found, strings.Trim(v, `"`))
			}
		}
	}
	return found
}

// persist gives the client a token for host, if it needs one.
func (t *transaction) persist(h http.Header, host *upstream.Host) {
	ps := t.rule.Persistence
	if ps == nil {
		return
	}
	s := &t.sticky
	if s.endpoint == host.ID() && !s.renew {
		return
	}
	if s.endpoint != host.ID() {
		s.begun = t.x.Start // another session than before
	}
	token := makeToken(t.backend.Cluster, host.ID(), s.begun, t.x.Start)
	if ps.Header != "" {
		h[ps.Header] = []string{token}
		return
	}
	var b strings.Builder
	b.WriteString(ps.Cookie + "=" + token)
	if ps.Path != "" {
		b.WriteString("; Path=" + ps.Path)
	}
	if ps.Permanent && ps.Absolute > 0 {
		left := s.begun.Add(ps.Absolute).Sub(t.x.Start)
		b.WriteString("; Max-Age=" + strconv.FormatInt(max(int64(left/time.Second), 1), 10))
	}
	if t.x.Client.TLS != nil {
		b.WriteString("; Secure")
	}
	b.WriteString("; HttpOnly; SameSite=Strict")
	old := h["Set-Cookie"]
	h["Set-Cookie"] = append(old[:len(old):len(old)], b.String())
}

// A token is what a gateway's replicas need to find the endpoint again without
// knowing of each other. It is not signed: all that a forged one can do is to
// choose among the endpoints that the rule leads to anyway, and to stay there.
func makeToken(cluster, endpoint string, begun, used time.Time) string {
	b := make([]byte, 0, 96)
	b = append(b, '1', ' ')
	b = strconv.AppendInt(b, begun.Unix(), 36)
	b = append(b, ' ')
	b = strconv.AppendInt(b, used.Unix(), 36)
	b = append(b, ' ')
	b = append(b, cluster...)
	b = append(b, ' ')
	b = append(b, endpoint...)
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseToken(s string) (cluster, endpoint string, begun, used time.Time, ok bool) {
	if len(s) > 1024 {
		return
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return
	}
	f := strings.Split(string(b), " ")
	if len(f) != 5 || f[0] != "1" || f[3] == "" || f[4] == "" {
		return
	}
	begin, err := strconv.ParseInt(f[1], 36, 64)
	if err != nil {
		return
	}
	last, err := strconv.ParseInt(f[2], 36, 64)
	if err != nil {
		return
	}
	return f[3], f[4], time.Unix(begin, 0), time.Unix(last, 0), true
}
