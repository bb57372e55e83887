// Package compile turns HTTPRoutes and GRPCRoutes into the entries of a route
// table.
//
// A rule that cannot be carried out does not take the route's other rules with it:
// the route is PartiallyInvalid. If its matches make sense its requests are
// answered with 500, since a less specific rule might let through what this one
// was to stop; else nothing matches it.
//
// # Limitations
//
// Regular expressions are RE2 and match the whole of a value. ExtensionRef leads
// nowhere and ExternalAuth is not supported: both answer 500. Header modifiers
// may not touch the fields that frame messages or belong to the connection, nor
// Host, which URLRewrite changes; and of one name they may do one thing. Retries
// without attempts are one, and those without backoff wait 25 ms.
package compile
