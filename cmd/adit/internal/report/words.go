package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// age is a span as kubectl writes it: the two largest units at most.
func age(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 10*time.Minute && d%time.Minute >= time.Second:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 3*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// since is the age of an instant, "" for one that is not known.
func since(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return age(now.Sub(t))
}

// size is a number of bytes in at most six characters.
func size(n int64) string {
	units := []string{"", "Ki", "Mi", "Gi", "Ti", "Pi"}
	v, i := float64(n), 0
	for v >= 1000 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f%s", v, units[i])
	}
	return fmt.Sprintf("%.1f%s", v, units[i])
}

func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// identities shortens SPIFFE IDs of the usual shape to namespace/account, if
// all that are shown are of one trust domain.
type identities struct{ domains map[string]bool }

func (n *identities) add(id string) {
	if parsed, err := spiffeid.FromString(id); err == nil {
		if n.domains == nil {
			n.domains = make(map[string]bool)
		}
		n.domains[parsed.TrustDomain().Name()] = true
	}
}

func (n *identities) short(id string) string {
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return id
	}
	parts := strings.Split(parsed.Path(), "/") // "", ns, NAMESPACE, sa, ACCOUNT
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return id
	}
	short := parts[2] + "/" + parts[4]
	if len(n.domains) > 1 {
		return parsed.TrustDomain().Name() + "/" + short
	}
	return short
}
