// Package ask is the conversation between a node's CNI plugin and its agent.
//
// The plugin connects to the agent's socket, of type SOCK_SEQPACKET, and sends
// one message: a Request as JSON and, as SCM_RIGHTS, the pod's network
// namespace. The agent answers with one Reply. A connection that ends without
// one means that the agent has gone, and may be asked again.
//
// What the JSON holds beyond the fields known here is ignored, so that a plugin
// and an agent of different versions understand each other: for a moment in
// each upgrade that is what a node has.
package ask
