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
//   - Gateways of type NamedAddress, or of a type of another controller, are
//     refused; an IPAddress or a Hostname is taken.
//   - caCertificateRefs of client validation are ConfigMaps.
//   - Of a ClientTrafficPolicy, http3 is honoured and every other field refused.
package gateway
