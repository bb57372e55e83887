package bench

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// Paths that are built in.
const (
	pathDirect   = "direct"
	pathSplice   = "splice"
	pathCopy     = "copy"
	pathTLS      = "tls"
	pathNetHTTP2 = "nethttp2"
	pathOurs     = "adit"
	pathAgent    = "agent"
)

// Sides of a path that a worker can be: half of a pair, or one agent that joins client and server by itself.
const (
	sideA           = "a" // takes the client's connections, enters the tunnel
	sideB           = "b" // leaves the tunnel, dials the server
	sidePassThrough = "pass-through"
	sideSameNode    = "same-node"
)

// agentOrder makes a worker one half of a path.
type agentOrder struct {
	Path   string         `json:"path"`
	Side   string         `json:"side"`
	Listen string         `json:"listen"`
	Next   netip.AddrPort `json:"next"`   // side A: where side B listens
	Target netip.AddrPort `json:"target"` // the load server
	CADir  string         `json:"caDir"`  // holds the root that both sides trust
}

// A half is one agent's share of a path.
type half interface {
	// serve takes connections until l closes.
	serve(l net.Listener)
	// setCold makes every later connection open a tunnel of its own, where the path has tunnels.
	setCold(bool)
}

// agent is the worker that hosts a half.
type agent struct {
	half half
}

func (a *agent) handle(do string, arg json.RawMessage) (any, error) {
	switch do {
	case "serve":
		order, err := proc.DecodeArg[agentOrder](arg)
		if err != nil {
			return nil, err
		}
		return a.serve(order)
	case "cold":
		on, err := proc.DecodeArg[bool](arg)
		if err != nil {
			return nil, err
		}
		a.half.setCold(on)
		return nil, nil
	}
	return proc.HandleCommon(do)
}

// serve starts the half and returns the address it listens on.
func (a *agent) serve(order agentOrder) (string, error) {
	h, err := newHalf(order)
	if err != nil {
		return "", fmt.Errorf("path %s, side %s: %w", order.Path, order.Side, err)
	}
	l, err := net.Listen("tcp4", order.Listen)
	if err != nil {
		return "", err
	}
	a.half = h
	go h.serve(l)
	return l.Addr().String(), nil
}

// onward is where the connections of a side go next.
func (o agentOrder) onward() netip.AddrPort {
	if o.Side == sideA {
		return o.Next
	}
	return o.Target
}

func newHalf(o agentOrder) (half, error) {
	switch o.Path {
	case pathSplice:
		return &plainHalf{next: o.onward(), move: moveSpliced}, nil
	case pathCopy:
		return &plainHalf{next: o.onward(), move: moveCopied}, nil
	case pathTLS:
		return newTLSHalf(o)
	case pathNetHTTP2:
		return newNetHTTP2Half(o)
	case pathOurs:
		if o.Side == sidePassThrough || o.Side == sideSameNode {
			return newProxyHalf(o) // package hbone has no part in these
		}
		return newOurHalf(o)
	case pathAgent:
		return newProxyHalf(o)
	}
	return nil, fmt.Errorf("no such path: %q", o.Path)
}

// dialTCP dials with as few allocations as net permits: what a path costs per connection is counted.
// (net.Dialer.DialTCP is no leaner, and binds: it would use up the ports of 10,000 connections and spend its time looking for one.)
func dialTCP(to netip.AddrPort) (*net.TCPConn, error) {
	return net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(to))
}

// dialAuthority dials what a CONNECT names.
func dialAuthority(authority string) (*net.TCPConn, error) {
	to, err := netip.ParseAddrPort(authority)
	if err != nil {
		return nil, err
	}
	return dialTCP(to)
}

// warm has paths without tunnels ignore setCold.
type warm struct{}

func (warm) setCold(bool) {}
