package gateway

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
)

// checkGateway is what of a Gateway's specification makes all of it void.
func checkGateway(g *gatewayv1.Gateway) verdict {
	for _, a := range g.Spec.Addresses {
		if kind := addressType(a.Type); kind != gatewayv1.IPAddressType && kind != gatewayv1.HostnameAddressType {
			return because(gatewayv1.GatewayReasonUnsupportedAddress,
				fmt.Sprintf("an address of type %q (%q) cannot be assigned: IPAddress and Hostname can", kind, a.Value))
		}
	}
	i := g.Spec.Infrastructure
	if i == nil {
		return verdict{}
	}
	if p := i.ParametersRef; p != nil {
		return because(gatewayv1.GatewayReasonInvalidParameters,
			fmt.Sprintf("infrastructure.parametersRef: there is nothing to configure by %s %q; remove it", groupKind(p.Group, p.Kind), p.Name))
	}
	var wrong []string
	for key, value := range i.Labels {
		if problems := append(validation.IsQualifiedName(string(key)), validation.IsValidLabelValue(string(value))...); len(problems) > 0 {
			wrong = append(wrong, fmt.Sprintf("label %q: %s", key, strings.Join(problems, ", ")))
		}
	}
	for key := range i.Annotations {
		if problems := validation.IsQualifiedName(strings.ToLower(string(key))); len(problems) > 0 {
			wrong = append(wrong, fmt.Sprintf("annotation %q: %s", key, strings.Join(problems, ", ")))
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return because(gatewayv1.GatewayReasonInvalid, "infrastructure: "+strings.Join(wrong, "; "))
	}
	return verdict{}
}

func addressType(t *gatewayv1.AddressType) gatewayv1.AddressType {
	if t == nil {
		return gatewayv1.IPAddressType
	}
	return *t
}

func checkAddresses(g *gatewayv1.Gateway) verdict {
	for _, a := range g.Spec.Addresses {
		if a.Value == "" || addressType(a.Type) != gatewayv1.IPAddressType {
			continue
		}
		if _, err := netip.ParseAddr(a.Value); err != nil {
			return because(gatewayv1.GatewayReasonAddressNotUsable, fmt.Sprintf("address %q is no IP address", a.Value))
		}
	}
	return verdict{}
}
