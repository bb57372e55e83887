// Package reach gets an operator's questions to the agents of a mesh: through
// the API server of a cluster, whatever network the operator is on, or to an
// admin port that he names.
//
// # Limitations
//
// The admin port of an agent takes requests for a loopback address only, so a
// named one must be on this machine or be forwarded to it.
package reach
