package main

import (
	"encoding/json"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"

	"github.com/adit-mesh/adit/agent/enrol/ask"
)

// config is the plugin's entry in the chain, as the agent has written it, and
// what the runtime adds.
type config struct {
	types.PluginConf
	Socket            string   `json:"socket"`
	ExcludeNamespaces []string `json:"excludeNamespaces"`
	// Previous is the result of the plugin before, as it came: it is passed on
	// with all that we do not know.
	Previous json.RawMessage `json:"prevResult"`
}

// defaultSocket is that of the agent's default configuration.
const defaultSocket = "/run/adit/cni.sock"

// podArgs is what Kubernetes' runtimes say about the pod. Its fields have the
// names of the arguments: that is how they are found.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString
	K8S_POD_NAME      types.UnmarshallableString
	K8S_POD_UID       types.UnmarshallableString
}

func parseConfig(stdin []byte) (*config, error) {
	c := new(config)
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "adit-cni: the plugin's configuration cannot be read", err.Error())
	}
	if c.Socket == "" {
		c.Socket = defaultSocket
	}
	if len(c.Previous) > 0 {
		var err error
		if c.Previous, err = withVersion(c.Previous, c.CNIVersion); err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, "adit-cni: prevResult cannot be read", err.Error())
		}
	}
	return c, nil
}

// excluded reports whether a namespace's pods start without the agent: it may
// need them.
func (c *config) excluded(namespace string) bool {
	return slices.Contains(c.ExcludeNamespaces, namespace)
}

// request is what the agent is asked about the pod of a command.
func request(command ask.Command, args *skel.CmdArgs) (ask.Request, error) {
	pod := podArgs{CommonArgs: types.CommonArgs{IgnoreUnknown: true}}
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return ask.Request{}, types.NewError(types.ErrInvalidEnvironmentVariables, "adit-cni: CNI_ARGS cannot be read", err.Error())
	}
	return ask.Request{
		Command: command, Namespace: string(pod.K8S_POD_NAMESPACE), Name: string(pod.K8S_POD_NAME), UID: string(pod.K8S_POD_UID),
		ContainerID: args.ContainerID, Netns: args.Netns,
	}, nil
}

// addresses are those of the pod's own interfaces in the previous result.
func (c *config) addresses() ([]netip.Addr, error) {
	previous, err := cniversion.NewResult(c.CNIVersion, c.Previous)
	if err != nil {
		return nil, err
	}
	result, err := current.NewResultFromResult(previous)
	if err != nil {
		return nil, err
	}
	var list []netip.Addr
	for _, ip := range result.IPs {
		if ip.Interface != nil && *ip.Interface >= 0 && *ip.Interface < len(result.Interfaces) &&
			result.Interfaces[*ip.Interface].Sandbox == "" {
			continue // of an interface on the node's side
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok && a.Unmap().IsGlobalUnicast() && len(list) < ask.MaxAddresses {
			list = append(list, a.Unmap())
		}
	}
	return list, nil
}

// withVersion adds the version to a previous result that has none: a result
// does, the specification says, but it is the list's version all the same.
func withVersion(result json.RawMessage, version string) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(result, &fields); err != nil {
		return nil, err
	}
	if _, ok := fields["cniVersion"]; ok || len(fields) == 0 {
		return result, nil
	}
	var err error
	if fields["cniVersion"], err = json.Marshal(version); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}
