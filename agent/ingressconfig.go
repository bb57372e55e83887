package agent

import (
	"cmp"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// IngressConfig is the edge.
type IngressConfig struct {
	// Config is a directory of YAML files with Gateway API's objects, and the
	// Services, EndpointSlices and Secrets that they name. It is watched. Relative
	// to the configuration file.
	Config string `yaml:"config"`
	// Kubernetes takes these objects from the Kubernetes API instead. It needs
	// world.kubernetes. Default: none.
	Kubernetes *IngressKubernetesConfig `yaml:"kubernetes"`
	// ControllerNames are those of the GatewayClasses that are served. Default:
	// adit-mesh.github.io/gateway-controller.
	ControllerNames []string `yaml:"controllerNames"`
	// Identity is the SPIFFE ID that backends in the mesh see. Default: that of
	// the own pod; without Kubernetes spiffe://TRUSTDOMAIN/ns/adit-system/sa/adit-ingress.
	Identity string `yaml:"identity"`
	// AccessLog is the log of requests, one line each.
	AccessLog IngressLogConfig `yaml:"accessLog"`
	// ProxyProtocol are the CIDRs of load balancers whose connections begin with a
	// PROXY header. Default: none.
	ProxyProtocol []string `yaml:"proxyProtocol"`
	// TrustedProxies are the CIDRs whose X-Forwarded-For is believed. Default:
	// none, so that a client is who connects.
	TrustedProxies []string `yaml:"trustedProxies"`
}

// IngressKubernetesConfig is the edge as a controller of Gateways.
type IngressKubernetesConfig struct {
	// SeparateUDPService makes a second Service for the UDP ports of each Gateway,
	// for load balancers that do not take both protocols in one. Default: false.
	SeparateUDPService bool `yaml:"separateUDPService"`
}

// IngressLogConfig is the log of requests.
type IngressLogConfig struct {
	// Format is text, json, or a format string with Envoy's operators, such as
	// "%START_TIME% %REQ(:METHOD)% %RESPONSE_CODE%". Default: text.
	Format string `yaml:"format"`
	// File is appended to. "" = standard output; "off" = no log. Relative to the
	// configuration file. Default: "".
	File string `yaml:"file"`
}

// gatewayController is the controller name of this edge.
const gatewayController = "adit-mesh.github.io/gateway-controller"

func (c *IngressConfig) complete(trustDomain string) {
	c.AccessLog.Format = cmp.Or(c.AccessLog.Format, "text")
	if len(c.ControllerNames) == 0 {
		c.ControllerNames = []string{gatewayController}
	}
	if c.Identity == "" && c.Kubernetes == nil {
		c.Identity = "spiffe://" + trustDomain + "/ns/adit-system/sa/adit-ingress"
	}
}

// ingress checks the edge.
func (v *validator) ingress(c Config, td spiffeid.TrustDomain) {
	in := c.Ingress
	if in == nil {
		if !c.Capture && len(c.Encapsulate) == 0 && len(c.Terminate) == 0 {
			v.add("capture", "nothing to do: no pod is captured and there is no ingress")
		}
		return
	}
	switch {
	case (in.Config == "") == (in.Kubernetes == nil):
		v.add("ingress.config", "set one of ingress.config, a directory of Gateway API's objects, and ingress.kubernetes")
	case in.Kubernetes != nil && c.World.Kubernetes == nil:
		v.add("ingress.kubernetes", "needs world.kubernetes, which says where the API server is")
	}
	if in.Identity != "" {
		v.own("ingress.identity", in.Identity, td)
	}
	if _, err := accessFormat(in.AccessLog.Format); err != nil {
		v.add("ingress.accessLog.format", "%v", err)
	}
	v.prefixes("ingress.proxyProtocol", in.ProxyProtocol)
	v.prefixes("ingress.trustedProxies", in.TrustedProxies)
}
