// Package upstream carries requests and connections to the endpoints of backends.
package upstream
