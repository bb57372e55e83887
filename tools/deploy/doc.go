// Package deploy holds the tests of what deploy/ ships: manifests, chart,
// dashboard and alert rules, each read as its consumer reads it.
package deploy
