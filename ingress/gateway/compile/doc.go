// Package compile turns HTTPRoutes and GRPCRoutes into the entries of a route
// table.
package compile
