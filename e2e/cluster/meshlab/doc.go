// Package meshlab is what the tests of adit on a real cluster share: one cluster for a test binary with adit installed
// as a user installs it, pods that talk, what crossed the wire between nodes, and what adit's own commands say.
//
//	func TestMain(m *testing.M) { meshlab.Main(m, "adit-mesh") }
//
// # Limitations
//
// Tests of one binary share its nodes, so one that stops a daemon or an agent must not run in parallel with others.
package meshlab
