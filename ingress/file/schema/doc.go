// Package schema holds Gateway API objects that no API server has seen to what
// their definitions say, and fills in the defaults that an API server would.
//
// # Limitations
//
// The definitions' rules in CEL are not evaluated: what they forbid, such as a
// hostname on a TCP listener, is left to whoever uses the object.
package schema
