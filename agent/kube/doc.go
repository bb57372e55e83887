// Package kube is the Kubernetes API as a source of the mesh: it follows the
// cluster's objects and writes workloads, services and policies to a
// mesh.Store.
package kube
