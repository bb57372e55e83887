// Package weathertest holds tests of what a cluster does to adit in bad weather: API server, CA, agent, kubelet,
// container runtime or node go away and come back, while pods talk and what crosses the wire is watched.
package weathertest
