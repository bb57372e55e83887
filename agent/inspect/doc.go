// Package inspect answers an operator's questions to one agent: how it is, which
// pods it serves, which connections are open, and what would become of a
// connection that nobody has made yet.
//
// Its values are the JSON of the agent's admin port. What it says about a
// connection comes out of the functions that decide about real ones, called in
// the same order; see [Agent.Explain].
//
// # Limitations
//
// Each agent is certain only about its own node: the certificates that it
// holds and the pods that it has captured. What it says of another node's half
// of a connection is what its own view of the mesh allows it to conclude, and
// AnsweredBy names who concluded. Nothing is dialled, so that a NetworkPolicy,
// a firewall or an application that does not listen is not seen.
package inspect
