package gateway

import (
	"slices"
	"strings"
	"sync"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// supportedFeatures is every feature of Gateway API's profiles GATEWAY-HTTP,
// GATEWAY-GRPC, GATEWAY-TLS, GATEWAY-TCP and GATEWAY-UDP, in order of name as
// GatewayClassStatus asks for.
var supportedFeatures = sync.OnceValue(func() []gatewayv1.SupportedFeature {
	names := features.SetsToNamesSet(
		features.GatewayCoreFeatures, features.GatewayExtendedFeatures,
		features.ReferenceGrantCoreFeatures,
		features.HTTPRouteCoreFeatures, features.HTTPRouteExtendedFeatures,
		features.GRPCRouteCoreFeatures, features.GRPCRouteExtendedFeatures,
		features.TLSRouteCoreFeatures, features.TLSRouteExtendedFeatures,
		features.TCPRouteExtendedFeatures, features.UDPRouteFeatures,
		features.BackendTLSPolicyCoreFeatures, features.BackendTLSPolicyExtendedFeatures,
	)
	list := make([]gatewayv1.SupportedFeature, 0, len(names))
	for name := range names {
		list = append(list, gatewayv1.SupportedFeature{Name: gatewayv1.FeatureName(name)})
	}
	slices.SortFunc(list, func(a, b gatewayv1.SupportedFeature) int {
		return strings.Compare(string(a.Name), string(b.Name))
	})
	return list
})
