// Package edgetest shows the edge on a real cluster as its users see it: manifests of tutorials applied as they stand,
// clients outside of the cluster over HTTP/1.1, HTTP/2 and HTTP/3, backends in the mesh, and bad weather.
package edgetest
