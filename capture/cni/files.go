package cni

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ownNames are the names of our chain, in the order of preference: the first that sorts before every other
// configuration is the one the runtime takes. Files of these names are ours.
var ownNames = []string{"00-adit.conflist", "0-adit.conflist", "!adit.conflist"}

// tempPrefix begins the names of files that we have not finished. No runtime takes one for a configuration.
const tempPrefix = ".adit-cni-"

// maxConf is more than any network configuration needs.
const maxConf = 1 << 20

// ownName is the name that our chain needs beside other configurations, given in their order.
func ownName(others []string) (string, error) {
	for _, name := range ownNames {
		if len(others) == 0 || name < others[0] {
			return name, nil
		}
	}
	return "", fmt.Errorf("%s sorts before any name of ours, so the container runtime takes it and starts pods without %s; rename it", others[0], PluginName)
}

// configurations lists the network configurations of others, in the order in which runtimes take them.
func configurations(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || ext != ".conf" && ext != ".conflist" && ext != ".json" || slices.Contains(ownNames, e.Name()) {
			continue
		}
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

// readFile reads a file of others. What is no regular file must not keep us waiting.
func readFile(path string) ([]byte, fs.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("is not a regular file")
	}
	content, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err == nil && len(content) > maxConf {
		err = fmt.Errorf("is longer than %d bytes", maxConf)
	}
	return content, info.Mode().Perm(), err
}

// loadNetwork reads the configuration called name, with the plugins of its directory if it has one.
func loadNetwork(dir, name string) (*network, fs.FileMode, error) {
	content, mode, err := readFile(filepath.Join(dir, name))
	if err != nil {
		return nil, 0, err
	}
	n, err := parseNetwork(name, content)
	if err != nil {
		return nil, 0, err
	}
	if err := n.addDirectory(dir); err != nil {
		return nil, 0, err
	}
	return n, mode, n.check()
}

// addDirectory adds the plugins of the list's own directory: https://www.cni.dev/docs/spec/, "loadOnlyInlinedPlugins".
func (n *network) addDirectory(confDir string) error {
	// The name becomes a path.
	if n.inlined || strings.ContainsAny(n.name, "/\x00") || n.name == "." || n.name == ".." {
		return nil
	}
	dir := filepath.Join(confDir, n.name)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() || filepath.Ext(e.Name()) != ".conf" {
			continue
		}
		content, _, err := readFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("plugin %s/%s: %w", n.name, e.Name(), err)
		}
		if err := n.add(json.RawMessage(content)); err != nil {
			return fmt.Errorf("plugin %s/%s %w", n.name, e.Name(), err)
		}
	}
	return nil
}

// replace puts a file in place at once: whoever opens path finds the old content or the new, whole. The unfinished file
// is in the same directory, because containerd reloads its configuration when a file leaves a name there, not when one
// arrives.
func replace(path string, mode fs.FileMode, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		// Its random name would make the same error a new one each time.
		if wrong := new(fs.PathError); errors.As(err, &wrong) {
			err = fmt.Errorf("create a file: %w", wrong.Err)
		}
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	// A node that loses power must not come up with an empty file.
	if err := cmp.Or(f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// removeUnfinished removes what an agent that was killed has left.
func removeUnfinished(dir string) error {
	left, err := filepath.Glob(filepath.Join(escapeGlob(dir), tempPrefix+"*"))
	for _, name := range left {
		err = errors.Join(err, removeIfThere(name))
	}
	return err
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
