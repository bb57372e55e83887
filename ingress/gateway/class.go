package gateway

import (
	"fmt"
	"slices"
	"strings"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/consts"
)

// checkClass says why a GatewayClass of ours is not accepted.
func checkClass(c *gatewayv1.GatewayClass) verdict {
	if p := c.Spec.ParametersRef; p != nil {
		return because(gatewayv1.GatewayClassReasonInvalidParameters,
			fmt.Sprintf("parametersRef: there is nothing to configure by %s %q; remove it", groupKind(p.Group, p.Kind), p.Name))
	}
	return verdict{}
}

// checkVersions says whether the definitions in the cluster are of a release that
// this build knows: the minor version it was built with.
func checkVersions(found []string) verdict {
	var other []string
	for _, version := range found {
		if minor(version) != minor(consts.BundleVersion) {
			if version == "" {
				version = "none"
			}
			other = append(other, version)
		}
	}
	if len(other) == 0 {
		return verdict{}
	}
	slices.Sort(other)
	return because(gatewayv1.GatewayClassReasonUnsupportedVersion,
		fmt.Sprintf("the definitions of Gateway API are of version %s, and %s.x is supported; what both know is served",
			strings.Join(other, ", "), minor(consts.BundleVersion)))
}

// minor is "v1.6" of "v1.6.3".
func minor(version string) string {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 3 {
		return ""
	}
	return parts[0] + "." + parts[1]
}

// classStatus is the status of a GatewayClass of ours.
func (t *Translator) classStatus(c *gatewayv1.GatewayClass) Status {
	accepted := is(gatewayv1.GatewayClassConditionStatusAccepted, gatewayv1.GatewayClassReasonAccepted, "the class is accepted")
	if v := checkClass(c); !v.ok() {
		accepted = isNot(gatewayv1.GatewayClassConditionStatusAccepted, v)
	}
	version := is(gatewayv1.GatewayClassConditionStatusSupportedVersion, gatewayv1.GatewayClassReasonSupportedVersion,
		"the definitions of Gateway API are of a version that is supported")
	if v := checkVersions(t.options.CRDVersions); !v.ok() {
		version = isNot(gatewayv1.GatewayClassConditionStatusSupportedVersion, v)
	}
	return Status{
		Kind: "GatewayClass", Name: c.Name, UID: c.UID, Generation: c.Generation,
		Class: &gatewayv1.GatewayClassStatus{
			Conditions:        conditions(c.Status.Conditions, c.Generation, t.options.Now(), accepted, version),
			SupportedFeatures: supportedFeatures(),
		},
	}
}

// SetCRDVersions says anew what Options.CRDVersions said: definitions are
// upgraded while this process runs.
func (t *Translator) SetCRDVersions(found []string) {
	found = slices.Sorted(slices.Values(found))
	if !slices.Equal(t.options.CRDVersions, found) {
		t.options.CRDVersions = found
		clear(t.cache.classes)
	}
}
