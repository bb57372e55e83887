// Package gateway translates Gateway API objects into the configuration of the
// edge, and tells each object's author what became of it.
//
// A Translator is given objects one by one. Build compiles what changed since the
// last Build into the next ingress.Config, which shares everything else with the
// one before; Statuses says what is to be written to each object's status.
//
// # Limitations
//
//   - TCPRoutes are served by TCP listeners only, not by TLS listeners.
//   - Of a GatewayClass or Gateway, parametersRef is refused: there is nothing to
//     configure by it.
//   - A Gateway that asks for an address of another type than IPAddress or
//     Hostname is not accepted.
//   - caCertificateRefs of client validation are ConfigMaps.
//   - defaultScope of Gateways and useDefaultGateways of routes mean nothing.
//   - A TLSRoute, TCPRoute or UDPRoute has one rule.
//   - Of a ClientTrafficPolicy, http3 is honoured and every other field refused.
package gateway
