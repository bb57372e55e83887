// Package e2e holds what no single package can show: the import rules, and
// agents that talk to each other across network namespaces.
package e2e
