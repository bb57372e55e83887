// Package metrics tells Prometheus of the edge's requests, connections,
// certificates and configuration.
//
// Labels are bounded: they come from the configuration, series of what is gone
// from it are deleted, and beyond a limit of values a label is "other".
package metrics
