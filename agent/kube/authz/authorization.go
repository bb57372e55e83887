package authz

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	securityv1 "istio.io/api/security/v1beta1"
	typev1 "istio.io/api/type/v1beta1"

	"github.com/adit-mesh/adit/agent/policy"
)

// Object is a policy as the API server has it.
type Object struct {
	Namespace, Name string
	// DryRun is the annotation istio.io/dry-run.
	DryRun string
	// Spec is the object's spec in JSON.
	Spec []byte
}

// Authorization is an AuthorizationPolicy as layer 4 enforces it.
type Authorization struct {
	Policy policy.Policy
	// Selector are the labels of the workloads that it applies to, for the scope
	// WorkloadSelector.
	Selector map[string]string
	// Bound says that it applies to pods at all.
	Bound bool
	// Problems say what is not enforced as written, and what happens instead, one
	// sentence each. None means that the policy is enforced as written.
	Problems []string
}

// Action is that of an AuthorizationPolicy.
const (
	actionAllow  = "ALLOW"
	actionDeny   = "DENY"
	actionAudit  = "AUDIT"
	actionCustom = "CUSTOM"
)

// ConvertAuthorization translates an AuthorizationPolicy. root is the
// namespace whose policies hold everywhere.
func ConvertAuthorization(root string, o Object) Authorization {
	c := &converter{namespace: o.Namespace, allow: true}
	a := Authorization{Bound: true, Policy: policy.Policy{Name: o.Name, Namespace: o.Namespace, Scope: policy.Namespace}}
	if o.Namespace == root {
		a.Policy.Scope = policy.Global
	}
	if o.DryRun != "" {
		on, err := strconv.ParseBool(o.DryRun)
		if err != nil {
			c.problem("annotation istio.io/dry-run is %q, neither true nor false: the policy is enforced", o.DryRun)
		}
		a.Policy.DryRun = on
	}

	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(orEmpty(o.Spec), &fields); err != nil {
		// Not even the action is known.
		c.problem("the spec is not an object: everything in this policy's namespace is denied")
		return a.denyAll(c)
	}
	custom := false
	switch action, err := actionOf(fields["action"]); {
	case err != nil:
		c.problem("%v: everything that this policy may apply to is denied", err)
		return a.denyAll(c)
	case action == actionAllow:
	case action == actionDeny:
		c.allow = false
	case action == actionCustom:
		c.allow, custom = false, true
		c.problem("action CUSTOM asks an external authorizer, which layer 4 cannot: the connections that it would ask about are denied")
	case action == actionAudit:
		c.problem("action AUDIT needs a layer 7 proxy: nothing is audited, access is as without this policy")
		a.Bound = false
	}
	if !c.allow {
		a.Policy.Action = policy.Deny
	}
	known := true // nothing in the spec that may restrict and is not understood
	for name := range fields {
		switch name {
		case "selector", "targetRef", "targetRefs", "action", "rules":
		case "provider":
			if !custom {
				known = false
			}
		default:
			known = false
		}
	}
	if !known {
		c.problem("the spec has fields that this version does not know")
	}
	selected := c.selector(&a, fields)
	if !a.Bound {
		a.Problems = c.problems
		return a
	}
	a.Policy.Rules = c.rules(fields["rules"])
	if c.allow && (!known || !selected) {
		c.problem("so it allows nothing")
		a.Policy.Rules = nil
	}
	if !c.allow && !known {
		return a.denyAll(c)
	}
	a.Problems = c.problems
	return a
}

// denyAll makes a a policy that refuses everything in its scope.
func (a Authorization) denyAll(c *converter) Authorization {
	a.Policy.Action = policy.Deny
	a.Policy.Rules = []policy.Rule{{}}
	a.Problems = c.problems
	return a
}

// converter collects what is wrong with one policy.
type converter struct {
	namespace string
	allow     bool
	where     string // "rule 1: ", for problems
	problems  []string
}

func (c *converter) problem(format string, args ...any) {
	c.problems = append(c.problems, c.where+fmt.Sprintf(format, args...))
}

func actionOf(raw json.RawMessage) (string, error) {
	if isNull(raw) {
		return actionAllow, nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", fmt.Errorf("the action is not a string")
	}
	switch s {
	case actionAllow, actionDeny, actionAudit, actionCustom:
		return s, nil
	}
	return "", fmt.Errorf("unknown action %q", s)
}

// selector finds which workloads the policy is for. false means that this
// cannot be told: it then applies to more of them than may be meant, where only
// a restriction does no harm.
func (c *converter) selector(a *Authorization, fields map[string]json.RawMessage) bool {
	targeted := false
	if raw := fields["targetRefs"]; !isNull(raw) {
		var refs []json.RawMessage
		if err := json.Unmarshal(raw, &refs); err != nil {
			c.problem("targetRefs is not a list: the policy applies to the whole namespace")
			return false
		}
		targeted = len(refs) > 0
	}
	targeted = targeted || !isNull(fields["targetRef"])
	var labels typev1.WorkloadSelector
	if err := strict(fields["selector"], &labels); err != nil {
		c.problem("the selector cannot be read (%v): the policy applies to the whole namespace", err)
		return false
	}
	if len(labels.MatchLabels) > 0 {
		if targeted {
			c.problem("it has both a selector and targetRefs: the selector counts")
		}
		a.Policy.Scope, a.Selector = policy.WorkloadSelector, labels.MatchLabels
		return true
	}
	if targeted {
		a.Bound = false
	}
	return true
}

func (c *converter) rules(raw json.RawMessage) []policy.Rule {
	if isNull(raw) {
		return nil
	}
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		c.problem("rules is not a list: %s", c.instead())
		return c.unknown()
	}
	var out []policy.Rule
	for i, raw := range list {
		c.where = fmt.Sprintf("rule %d: ", i+1)
		var r securityv1.Rule
		if err := strict(raw, &r); err != nil || isNull(raw) {
			c.problem("it cannot be read (%v): %s", err, c.instead())
			out = append(out, c.unknown()...)
			continue
		}
		if rule, ok := c.rule(&r); ok {
			out = append(out, rule)
		}
	}
	c.where = ""
	return out
}

// unknown stands for rules of which nothing is known.
func (c *converter) unknown() []policy.Rule {
	if c.allow {
		return nil
	}
	return []policy.Rule{{}}
}

func (c *converter) instead() string {
	if c.allow {
		return "it allows nothing"
	}
	return "it denies everything"
}

// strict reads one message, refusing what it does not know.
func strict(raw json.RawMessage, m proto.Message) (err error) {
	if isNull(raw) {
		return nil
	}
	if err := protojson.Unmarshal(raw, m); err != nil {
		// protojson varies its spacing on purpose, which a status that is compared
		// must not.
		return fmt.Errorf("%s", strings.Join(strings.Fields(err.Error()), " "))
	}
	return nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func orEmpty(spec []byte) []byte {
	if isNull(spec) {
		return []byte("{}")
	}
	return spec
}
