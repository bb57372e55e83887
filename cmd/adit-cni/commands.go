package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/adit-mesh/adit/agent/enrol/ask"
)

// How long the agent may take, and be away meanwhile. A pod that cannot be
// captured now fails, and kubelet, which shows the reason in an event, tries
// again with a new sandbox.
const (
	addTimeout   = 40 * time.Second
	addPatience  = 10 * time.Second // about a restart
	delTimeout   = 3 * time.Second  // the pod has ended; nobody waits for us
	checkTimeout = 5 * time.Second
)

// add lets the pod start once the agent has captured it, or said that it is not
// to be.
func add(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	if len(c.Previous) == 0 {
		return types.NewError(types.ErrInvalidNetworkConfig, "adit-cni: no prevResult",
			"adit-cni configures no network; it goes last in a chain of plugins that do")
	}
	r, err := request(ask.Add, args)
	if err != nil {
		return err
	}
	// What is no pod is nobody's to capture: a container that is started by hand.
	if r.Name == "" && r.Namespace == "" || c.excluded(r.Namespace) {
		return printResult(c.Previous)
	}
	if r.Addresses, err = c.addresses(); err != nil {
		return types.NewError(types.ErrDecodingFailure, "adit-cni: prevResult cannot be read", err.Error())
	}
	if err := c.ask(r, args.Netns, addTimeout, addPatience); err != nil {
		return err
	}
	return printResult(c.Previous)
}

// del tells the agent that the pod's network goes. It does not fail.
func del(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	r, err := request(ask.Del, args)
	if err != nil || r.Name == "" || c.excluded(r.Namespace) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), delTimeout)
	defer cancel()
	netns, err := os.Open(args.Netns)
	if err == nil {
		defer netns.Close()
	} else {
		netns = nil // gone already, as it may be
	}
	if err := ask.Agent(ctx, c.Socket, 0, r, netns); err != nil {
		fmt.Fprintln(os.Stderr, "adit-cni: the agent was not told that the pod ends:", err)
	}
	return nil
}

// check asks whether the pod is still captured, if it is to be.
func check(args *skel.CmdArgs) error {
	c, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	r, err := request(ask.Check, args)
	if err != nil || r.Name == "" || c.excluded(r.Namespace) {
		return err
	}
	return c.ask(r, args.Netns, checkTimeout, 0)
}

// gc has nothing to do: the plugin keeps nothing.
func gc(*skel.CmdArgs) error { return nil }

// status says whether pods can be added, as far as the configuration goes. It does
// not ask the agent: a runtime that hears of a plugin out of order reports its node
// as not ready, upon which all pods of the node, of no mesh too, leave their
// services. An agent that is being upgraded is not worth that, and the pods that
// wait for it say so in their events.
func status(args *skel.CmdArgs) error {
	_, err := parseConfig(args.StdinData)
	return err
}

const away = "adit-cni: the mesh agent of this node does not answer, and pods do not start without it; " +
	"see kubectl --namespace adit-system get pods --output wide; if adit has been removed, " +
	"remove 00-adit.conflist from the node's CNI configuration too"

// ask asks the agent about a pod and its network namespace.
func (c *config) ask(r ask.Request, netnsPath string, timeout, patience time.Duration) error {
	netns, err := os.Open(netnsPath)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, "adit-cni: the pod's network namespace cannot be opened", err.Error())
	}
	defer netns.Close()
	ctx, cancel := context.WithTimeoutCause(context.Background(), timeout, fmt.Errorf("none within %s", timeout))
	defer cancel()
	err = ask.Agent(ctx, c.Socket, patience, r, netns)
	refused := new(ask.RefusedError)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return types.NewError(types.ErrTryAgainLater, "adit-cni: the mesh agent does not let the pod start: "+refused.Reason, "")
	case errors.Is(err, ask.ErrAway):
		return types.NewError(types.ErrTryAgainLater, away, err.Error())
	default:
		return types.NewError(types.ErrTryAgainLater, "adit-cni: "+err.Error(), "")
	}
}

// printResult hands on the result that the plugin was given.
func printResult(result []byte) error {
	_, err := os.Stdout.Write(append(result, '\n'))
	return err
}
