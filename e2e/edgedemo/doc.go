// Package edgedemo runs an edge between a client and a pod of the mesh, all in
// network namespaces, and shows what clients of each version of HTTP see of it:
// curl, gtlsclient, a browser, and clients of its own.
//
// # Limitations
//
// It needs root, Linux, and a kernel with nftables; curl, gtlsclient (Debian:
// ngtcp2-client) and chromium are used where they are installed, and the report
// says what is not shown where they are not. It runs once per machine at a time.
package edgedemo
