package ask

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Command is what the container runtime wants of the plugin.
type Command string

// The commands.
const (
	Add    Command = "ADD"    // the pod has a network; its first process has not started
	Del    Command = "DEL"    // the pod's network is about to be torn down
	Check  Command = "CHECK"  // is the pod as it was when it was added?
	Status Command = "STATUS" // is the agent there?
)

// Request is what the plugin asks.
type Request struct {
	Command Command `json:"command"`
	// Namespace, Name and UID are the pod's. The UID is "" with runtimes that do
	// not tell it.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	UID       string `json:"uid,omitempty"`
	// ContainerID is the runtime's name for the pod's sandbox.
	ContainerID string `json:"containerID,omitempty"`
	// Netns is the path of the namespace that comes with the request, for
	// messages: it means nothing outside the runtime's mounts.
	Netns string `json:"netns,omitempty"`
	// Addresses are those that the plugins before this one gave the pod.
	Addresses []netip.Addr `json:"addresses,omitempty"`
}

// Reply is what the agent answers.
type Reply struct {
	OK bool `json:"ok"`
	// Error says what is missing, for a person, if OK is false.
	Error string `json:"error,omitempty"`
}

// maxMessage bounds a message, in bytes: two or three names of 253 at most, a
// path, and MaxAddresses addresses.
const maxMessage = 16 << 10

// MaxAddresses is how many addresses a request may name.
const MaxAddresses = 64

// Parse reads a request. What it returns is safe to log.
func Parse(message []byte) (Request, error) {
	var r Request
	if err := json.Unmarshal(message, &r); err != nil {
		return Request{}, fmt.Errorf("not a request: %w", err)
	}
	switch r.Command {
	case Status: // about no pod
		return Request{Command: Status}, nil
	case Add, Del, Check:
	default:
		return Request{}, fmt.Errorf("unknown command %.20q", string(r.Command))
	}
	switch {
	case r.Namespace == "" || r.Name == "":
		return Request{}, errors.New("the pod has no name")
	case !printable(r.Namespace, 63), !printable(r.Name, 253), !printable(r.UID, 128),
		!printable(r.ContainerID, 256), !printable(r.Netns, 4096):
		return Request{}, errors.New("a name is too long, or holds characters that names have not")
	case len(r.Addresses) > MaxAddresses:
		return Request{}, fmt.Errorf("%d addresses, more than %d", len(r.Addresses), MaxAddresses)
	}
	for i, a := range r.Addresses {
		if a = a.Unmap(); !a.IsGlobalUnicast() || a.Zone() != "" {
			return Request{}, fmt.Errorf("%s is not an address that a pod is reached at", a)
		}
		r.Addresses[i] = r.Addresses[i].Unmap()
	}
	return r, nil
}

func printable(s string, limit int) bool {
	return len(s) <= limit && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' })
}
