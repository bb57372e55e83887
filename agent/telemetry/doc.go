// Package telemetry reports what became of each connection: one record per
// connection moves the counters and writes the access-log line, so that they
// agree.
//
// # Direction of bytes
//
// Istio's metrics look at a connection from its destination, at both
// reporters: istio_tcp_received_bytes_total is what the source sent, and
// istio_tcp_sent_bytes_total what the destination answered
// (https://github.com/istio/istio/issues/32399). Its access log looks at it
// from the workload whose agent writes the line: bytes_sent of an outbound
// line is what the source sent, of an inbound line what the destination sent.
// The methods of this package take neither: their sent always goes from the
// source to the destination.
//
//	                    metric                           log, outbound  log, inbound
//	source -> destin.   istio_tcp_received_bytes_total   bytes_sent     bytes_recv
//	destin. -> source   istio_tcp_sent_bytes_total       bytes_recv     bytes_sent
//
// # Limitations
//
// Nothing is traced. The log is not rotated; that is for whoever owns the file.
package telemetry
