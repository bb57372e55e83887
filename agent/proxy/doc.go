// Package proxy carries the connections of local pods: out to the mesh or past
// it, and in to the application, as the store's decisions and policies say.
//
// A connection goes through phases, always in this order: decide, authorize,
// dial, answer, copy, record. Nothing is answered before it is true, a
// connection that cannot go on ends in a reset, and one that policy no longer
// allows is cut while it runs.
//
// # Limitations
//
// Only TCP is carried. A PROXY protocol application tunnel and a destination in
// another network are refused. A connection that a client half-closed and then
// abandons while it is being dialled is noticed only when the dial has ended.
package proxy
