package bench

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// A Peer is an external program to measure in the same run. Command is run by /bin/sh with
//
//	{listen}   replaced by the address on which it must take TCP connections
//	{forward}  by the address to which it must bring them
//	{tunnel}   by a free address for the leg between its two halves, if it has two
//
// and {listen.host}, {listen.port} and so on by the parts of each. It may start other programs; all are ended together. It must pass on half-closes, and is ready when a connection to
// {listen} reaches the server. Give it everything it needs: nothing of its configuration is made for it.
type Peer struct {
	Name    string
	Command string
}

// ParsePeer reads NAME=COMMAND.
func ParsePeer(s string) (Peer, error) {
	name, command, ok := strings.Cut(s, "=")
	if !ok || name == "" || command == "" {
		return Peer{}, fmt.Errorf("peer %q: want NAME=COMMAND", s)
	}
	if strings.ContainsAny(name, " \t/") {
		return Peer{}, fmt.Errorf("peer %q: a name has no spaces and no slashes", name)
	}
	for _, place := range []string{"listen", "forward"} {
		if !strings.Contains(command, "{"+place+"}") && !strings.Contains(command, "{"+place+".port}") {
			return Peer{}, fmt.Errorf("peer %s: its command does not contain {%s}, so it cannot know that address", name, place)
		}
	}
	for _, path := range pairPaths {
		if name == path {
			return Peer{}, fmt.Errorf("peer %s: the bench has a path of that name", name)
		}
	}
	return Peer{Name: name, Command: command}, nil
}

// peerStart is how long a peer may take until it serves.
const peerStart = 15 * time.Second

func (f *fleet) openPeer(ctx context.Context, spec Peer, target string) (*route, error) {
	listen, tunnel, err := f.freeAddrs(ctx)
	if err != nil {
		return nil, err
	}
	line := spec.fill(listen, target, tunnel)
	p, err := proc.StartProgram(f.nursery, "peer "+spec.Name, exec.Command("/bin/sh", "-c", line))
	if err != nil {
		return nil, err
	}
	r := &route{name: spec.Name, entry: listen, peer: p}
	if err := f.awaitPeer(ctx, r); err != nil {
		r.close()
		return nil, fmt.Errorf("peer %s: %w%s", spec.Name, err, p.Output)
	}
	return r, nil
}

// fill is the command with its addresses.
func (p Peer) fill(listen, forward, tunnel string) string {
	var pairs []string
	for name, addr := range map[string]string{"listen": listen, "forward": forward, "tunnel": tunnel} {
		host, port, _ := net.SplitHostPort(addr)
		pairs = append(pairs, "{"+name+"}", addr, "{"+name+".host}", host, "{"+name+".port}", port)
	}
	return strings.NewReplacer(pairs...).Replace(p.Command)
}

// awaitPeer asks for a small exchange until one succeeds.
func (f *fleet) awaitPeer(ctx context.Context, r *route) error {
	for deadline := time.Now().Add(peerStart); ; {
		err := f.client.Call(ctx, "check", checkOrder{Target: r.entry, Size: 1}, nil)
		if err == nil {
			f.server.Call(ctx, "settle", nil, nil) // forgets what earlier attempts left
			return nil
		}
		select {
		case <-r.peer.Exited:
			return fmt.Errorf("its command ended before it served")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("does not bring a connection from %s to the server %s after its start: %w", r.entry, peerStart, err)
		}
	}
}

// freeAddrs finds two ports that are free where the peer will run: the client looks.
func (f *fleet) freeAddrs(ctx context.Context) (listen, tunnel string, err error) {
	var addrs []string
	err = f.client.Call(ctx, "free", []string{addrA, addrB}, &addrs)
	if err != nil {
		return "", "", err
	}
	return addrs[0], addrs[1], nil
}
