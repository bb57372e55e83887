// Package accesslog writes a line for each request, as a format string with
// Envoy's command operators says.
//
// # Limitations
//
// In text, a value with a space in it takes up more than one column unless the
// format quotes it. The operators that tell of Envoy's own machinery (filter
// state, dynamic metadata, thread identifiers) are not known here.
package accesslog
