package policy

import (
	"fmt"
	"iter"
	"strings"
)

// Set is the policies in force for one workload. It is immutable. The zero Set
// has no policy, and so allows.
type Set struct {
	// Kept apart so that making a Set copies nothing.
	root, namespace, listed []*Compiled
	missing                 []string
	refusal                 string
}

// NewSet puts together the policies of the root namespace, those of the
// workload's namespace, and those that the workload lists; missing are the
// keys of listed policies that have not arrived. The slices must not be
// changed afterwards.
func NewSet(root, namespace, listed []*Compiled, missing []string) Set {
	return Set{root: root, namespace: namespace, listed: listed, missing: missing}
}

// RefuseAll is a Set that refuses every connection, for workloads of which
// nothing is known.
func RefuseAll(reason string) Set { return Set{refusal: reason} }

// Decision says whether a connection may go on, and why.
type Decision struct {
	Allowed bool
	// Policy is the "namespace/name" of the policy that decided. It is empty
	// when no single policy did.
	Policy string
	// Reason is for the operator who asks why. It names the policies, so a log
	// line needs no more.
	Reason string
	// DryRun reports the policies that are not enforced: those that matched,
	// and the ALLOW policies whose enforcement would refuse the connection.
	DryRun []DryRun
}

// DryRun is what a policy would have done had it been enforced.
type DryRun struct {
	Policy string // "namespace/name"
	Action Action
	// Matched is false for an ALLOW policy that does not match while nothing
	// else would allow the connection.
	Matched bool
	Reason  string
}

// Check decides about c: a DENY policy that matches refuses; then a listed
// policy that has not arrived refuses, since it might be one; then, if there
// are ALLOW policies, one of them must match.
func (s Set) Check(c Connection) Decision {
	if s.refusal != "" {
		return Decision{Reason: s.refusal}
	}
	if s.empty() {
		return Decision{Allowed: true, Reason: "no policy applies to this workload"}
	}
	if !c.SourceAddr.IsValid() || !c.Destination.IsValid() {
		// A none-of match would hold for an address that nobody knows.
		return Decision{Reason: "source or destination address of the connection is unknown, policies cannot be checked"}
	}
	sub := newSubject(c)
	d := s.enforce(&sub)
	d.DryRun = s.rehearse(&sub, d)
	return d
}

func (s Set) empty() bool {
	return len(s.root)+len(s.namespace)+len(s.listed)+len(s.missing) == 0
}

func (s Set) all() iter.Seq[*Compiled] {
	return func(yield func(*Compiled) bool) {
		for _, group := range [...][]*Compiled{s.root, s.namespace, s.listed} {
			for _, c := range group {
				if !yield(c) {
					return
				}
			}
		}
	}
}

func (s Set) enforce(sub *subject) Decision {
	allows := 0
	for c := range s.all() {
		if c.policy.DryRun {
			continue
		}
		if c.policy.Action != Deny {
			allows++
			continue
		}
		if rule, ok := c.match(sub); ok {
			return Decision{
				Policy: c.Key(),
				Reason: fmt.Sprintf("denied by policy %s, rule %d", c.Key(), rule),
			}
		}
	}
	if len(s.missing) > 0 {
		return Decision{
			Policy: s.missing[0],
			Reason: fmt.Sprintf("policy %s applies to this workload but has not arrived; refusing until it does", strings.Join(s.missing, ", ")),
		}
	}
	if allows == 0 {
		return Decision{Allowed: true, Reason: "no DENY policy matches and no ALLOW policy applies"}
	}
	for c := range s.all() {
		if c.policy.DryRun || c.policy.Action != Allow {
			continue
		}
		if rule, ok := c.match(sub); ok {
			return Decision{
				Allowed: true,
				Policy:  c.Key(),
				Reason:  fmt.Sprintf("allowed by policy %s, rule %d", c.Key(), rule),
			}
		}
	}
	return s.noAllow(sub, allows)
}

// noAllow words the refusal that no single policy decided: it names what was
// tried and as whom.
func (s Set) noAllow(sub *subject, allows int) Decision {
	const named = 3
	var keys []string
	for c := range s.all() {
		if !c.policy.DryRun && c.policy.Action == Allow && len(keys) < named {
			keys = append(keys, c.Key())
		}
	}
	list := strings.Join(keys, ", ")
	if allows > len(keys) {
		list += fmt.Sprintf(" and %d more", allows-len(keys))
	}
	who := "a source without identity (plaintext)"
	if sub.principal != "" {
		who = "source spiffe://" + sub.principal
	}
	d := Decision{Reason: fmt.Sprintf("no ALLOW policy matches %s to port %d; tried %s", who, sub.port, list)}
	if allows == 1 {
		d.Policy = keys[0]
	}
	return d
}

// rehearse evaluates the policies that are not enforced.
func (s Set) rehearse(sub *subject, enforced Decision) []DryRun {
	var out []DryRun
	allowMatched, allowEnforced := false, false
	for c := range s.all() {
		if !c.policy.DryRun {
			allowEnforced = allowEnforced || c.policy.Action == Allow
			continue
		}
		rule, ok := c.match(sub)
		if !ok {
			continue
		}
		verb := "denied"
		if c.policy.Action == Allow {
			verb = "allowed"
			allowMatched = true
		}
		out = append(out, DryRun{
			Policy:  c.Key(),
			Action:  c.policy.Action,
			Matched: true,
			Reason:  fmt.Sprintf("dry run: would be %s by policy %s, rule %d", verb, c.Key(), rule),
		})
	}
	if allowMatched || allowEnforced || !enforced.Allowed {
		return out
	}
	for c := range s.all() {
		if c.policy.DryRun && c.policy.Action == Allow {
			out = append(out, DryRun{
				Policy: c.Key(),
				Action: Allow,
				Reason: fmt.Sprintf("dry run: would be refused, no ALLOW policy matches; tried %s", c.Key()),
			})
		}
	}
	return out
}
