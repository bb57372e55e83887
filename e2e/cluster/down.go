package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/lab"
)

// down removes whatever there is of a cluster. It goes by what the kernel says
// is in the cluster's namespaces, so it works after any interruption.
func down(cfg Config) error {
	for _, name := range cfg.names() {
		if err := empty(filepath.Join(lab.Dir, name)); err != nil {
			return err
		}
	}
	// Namespaces last: should something else fail, the next attempt still finds what it looks for.
	for _, name := range cfg.names() {
		if err := removeCgroups(name); err != nil {
			return err
		}
	}
	for _, name := range cfg.names() {
		if _, err := lab.Sweep(name); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(cfg.Dir); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	return nil
}

// lock keeps a second Up or Down of a cluster waiting. It is an address that one
// process at a time can have, which leaves nothing behind however that ends.
func lock(ctx context.Context, cfg Config) (unlock func(), err error) {
	var l net.Listener
	err = poll(ctx, 5*time.Minute, func() (err error) {
		l, err = net.Listen("unix", "@adit-cluster/"+cfg.Name)
		if err != nil {
			return fmt.Errorf("cluster: somebody else brings %s up or takes it down: %w", cfg.Name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = l.Close() }, nil
}

// empty kills every process in a network namespace until there is none. With
// the machine's process 1 go the pods, which are in namespaces of their own.
func empty(netns string) error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		found, err := processesIn(netns)
		if errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return err
		}
		left := 0
		for _, p := range found {
			if !p.alive() {
				continue
			}
			left++
			if err := p.signal(unix.SIGKILL); err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cluster: %d processes in %s survive SIGKILL, for instance %d", left, netns, found[0].PID)
		}
	}
}
