package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Spec is what a machine consists of; init reads it as JSON. The other end is
// machineSpec in package cluster.
type Spec struct {
	Hostname string
	Overlays []Overlay
	Binds    []Bind
	Run      []string // directories of a fresh /run; none leaves the host's
}

// Overlay puts a writable layer over a directory, which starts with what the
// host has there.
type Overlay struct{ Target, Upper, Work string }

// Bind puts Source, a file or a directory, in the place of Target.
type Bind struct{ Source, Target string }

func (s Spec) apply() error {
	// Mounts of the host appear here; none of ours appears there.
	if err := mount("none", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	for _, o := range s.Overlays {
		layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", o.Target, o.Upper, o.Work)
		if err := mount("overlay", o.Target, "overlay", 0, layers); err != nil {
			return err
		}
	}
	for _, b := range s.Binds {
		if err := mount(b.Source, b.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	if len(s.Run) > 0 {
		if err := mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=64m"); err != nil {
			return err
		}
		for _, dir := range s.Run {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
	}
	// What the kubelet mounts has to appear in containers that run already.
	if err := mount("none", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return err
	}
	return unix.Sethostname([]byte(s.Hostname))
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}
