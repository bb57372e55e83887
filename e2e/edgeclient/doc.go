// Package edgeclient asks a server from inside a network namespace over HTTP/1.1,
// HTTP/2 and HTTP/3, and holds WebSockets over each.
package edgeclient
