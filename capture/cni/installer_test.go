package cni

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	bridge  = `{"cniVersion": "0.3.1", "name": "podnet", "plugins": [{"type": "bridge", "bridge": "cni0"}, {"type": "portmap"}]}`
	flannel = `{"cniVersion": "1.0.0", "name": "cbr0", "plugins": [{"type": "flannel", "delegate": {"isDefaultGateway": true}}]}`
)

// node is the part of a node that an installer works on.
type node struct {
	testing.TB
	conf, bin, plugin string
	*Installer
	log *syncBuffer
	// stop ends Run and waits for it.
	stop func()
}

// syncBuffer is a log that is read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{TB: t, conf: t.TempDir(), bin: t.TempDir(), plugin: filepath.Join(t.TempDir(), "plugin"), log: new(syncBuffer)}
	n.write(n.plugin, "the plugin")
	n.Installer = n.installer()
	return n
}

func (n *node) installer() *Installer {
	return &Installer{
		ConfDir: n.conf, BinDir: n.bin, Binary: n.plugin, Socket: "/run/adit/cni.sock",
		ExcludeNamespaces: []string{"kube-system"}, Logger: slog.New(slog.NewTextHandler(n.log, nil)),
	}
}

// start runs the installer until the test ends or calls stop.
func (n *node) start() *node {
	n.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Installer.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			n.Errorf("Run: %v", err)
		}
	})
	n.Cleanup(n.stop)
	return n
}

func (n *node) write(path, content string) {
	n.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		n.Fatal(err)
	}
}

// provide writes a network configuration as careful providers do.
func (n *node) provide(name, content string) {
	n.Helper()
	temp := filepath.Join(n.conf, "provider.tmp")
	n.write(temp, content)
	if err := os.Rename(temp, filepath.Join(n.conf, name)); err != nil {
		n.Fatal(err)
	}
}

func (n *node) remove(name string) {
	n.Helper()
	if err := os.Remove(filepath.Join(n.conf, name)); err != nil {
		n.Fatal(err)
	}
}

// runtimeChain is what containerd would run for a pod now: the lexically first configuration, read by libcni.
func (n *node) runtimeChain() ([]string, error) {
	files, err := libcni.ConfFiles(n.conf, []string{".conf", ".conflist", ".json"})
	if err != nil || len(files) == 0 {
		return nil, err
	}
	slices.Sort(files)
	list, err := asRuntimeFile(files[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", files[0], err)
	}
	types := []string{list.Name}
	for _, p := range list.Plugins {
		types = append(types, p.Network.Type)
	}
	return types, nil
}

// wantChain waits until the runtime would run these plugins for a network.
func (n *node) wantChain(why string, want ...string) {
	n.Helper()
	var got []string
	var err error
	if !n.eventually(func() bool {
		got, err = n.runtimeChain()
		return err == nil && slices.Equal(got, want)
	}) {
		n.Fatalf("%s: the runtime runs %v, %v; want %v\n%s", why, got, err, want, n.log)
	}
}

func (n *node) eventually(ok func() bool) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}

// snapshot is every file below the node's directories, with all that a file has.
func (n *node) snapshot() map[string]string {
	n.Helper()
	all := make(map[string]string)
	for _, dir := range []string{n.conf, n.bin} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			content, err := os.ReadFile(path)
			st := info.Sys().(*syscall.Stat_t)
			all[path] = fmt.Sprintf("%s inode %d mtime %v: %s", info.Mode(), st.Ino, st.Mtim, content)
			return err
		})
		if err != nil {
			n.Fatal(err)
		}
	}
	return all
}

func TestInstallAndUninstall(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"list", map[string]string{"10-bridge.conflist": bridge}, []string{"podnet", "bridge", "portmap", "adit-cni"}},
		{"single plugin", map[string]string{"10-bridge.conf": `{"name": "n", "cniVersion": "1.0.0", "type": "bridge"}`, "20-x.conflist": flannel},
			[]string{"n", "bridge", "adit-cni"}},
		{"the first of several", map[string]string{"20-bridge.conflist": bridge, "10-flannel.conflist": flannel, "15-x.txt": "x"},
			[]string{"cbr0", "flannel", "adit-cni"}},
		{"multus before it", map[string]string{"00-multus.conf": `{"name": "multus", "type": "multus", "delegates": [` + flannel + `]}`},
			[]string{"multus", "multus", "adit-cni"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := newNode(t)
			for name, content := range test.files {
				n.provide(name, content)
			}
			n.write(filepath.Join(n.bin, "bridge"), "somebody's plugin")
			before := n.snapshot()
			n.start()
			n.wantChain("installed", test.want...)
			if content, err := os.ReadFile(filepath.Join(n.bin, PluginName)); err != nil || string(content) != "the plugin" {
				t.Errorf("the plugin is %q, %v", content, err)
			}
			if !n.eventually(func() bool { return n.Status().Installed }) {
				t.Errorf("status: %+v; want it to say that it is installed", n.Status())
			}
			n.stop()
			n.wantChain("the agent is away", test.want...)
			// What an agent that was killed in the middle leaves goes too.
			n.write(filepath.Join(n.conf, tempPrefix+"1"), "half")
			for range 2 {
				if err := n.Uninstall(); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, n.snapshot()); diff != "" {
				t.Errorf("uninstalling left (-before +after):\n%s", diff)
			}
			if n.Status().Installed {
				t.Error("status says it is still installed")
			}
		})
	}
}

func TestChainFollowsItsSource(t *testing.T) {
	n := newNode(t).start()
	n.provide("20-bridge.conflist", bridge)
	n.wantChain("a configuration that came later", "podnet", "bridge", "portmap", "adit-cni")
	n.provide("10-flannel.conflist", flannel)
	n.wantChain("another that sorts before it", "cbr0", "flannel", "adit-cni")
	n.provide("10-flannel.conflist", strings.Replace(flannel, "flannel", "flannel2", 1))
	n.wantChain("the source has changed", "cbr0", "flannel2", "adit-cni")
	n.remove("10-flannel.conflist")
	n.wantChain("the source is gone", "podnet", "bridge", "portmap", "adit-cni")
	n.provide("00-acme.conf", `{"name": "acme", "type": "acme"}`)
	n.wantChain("one that sorts before our usual name", "acme", "acme", "adit-cni")
	n.remove("00-acme.conf")
	n.remove("20-bridge.conflist")
	n.wantChain("no network is left")
	if !n.eventually(func() bool { return len(n.snapshot()) == 1 }) {
		t.Errorf("there is more than the plugin: %v", n.snapshot())
	}
	if s := n.Status(); s.Installed || len(s.Problems) != 0 {
		t.Errorf("status without any network: %+v", s)
	}
}

func TestLoopbackIsNoNetwork(t *testing.T) {
	n := newNode(t)
	n.provide("05-loopback.conf", `{"cniVersion": "1.0.0", "name": "lo", "type": "loopback"}`)
	n.start()
	if !n.eventually(func() bool { _, err := os.Stat(filepath.Join(n.bin, PluginName)); return err == nil }) {
		t.Fatal("no plugin")
	}
	n.provide("10-bridge.conflist", bridge)
	n.wantChain("beside the loopback", "podnet", "bridge", "portmap", "adit-cni")
}

// A provider that overwrites its configuration again and again, carefully or not, never opens a way around the plugin.
func TestOverwrittenSourceOpensNoWindow(t *testing.T) {
	n := newNode(t)
	n.provide("10-flannel.conflist", flannel)
	n.start()
	n.wantChain("installed", "cbr0", "flannel", "adit-cni")

	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-stop:
				return
			default:
			}
			content := strings.Replace(flannel, "flannel", fmt.Sprintf("flannel%d", round%7), 1)
			if round%2 == 0 {
				n.provide("10-flannel.conflist", content)
				continue
			}
			f, err := os.Create(filepath.Join(n.conf, "10-flannel.conflist"))
			if err != nil {
				t.Error(err)
				return
			}
			fmt.Fprint(f, content[:len(content)/2])
			time.Sleep(time.Millisecond) // half of it is there for a while
			fmt.Fprint(f, content[len(content)/2:])
			f.Close()
		}
	})
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		got, err := n.runtimeChain()
		if err != nil || len(got) != 3 || got[0] != "cbr0" || got[2] != PluginName {
			t.Errorf("while the source is overwritten the runtime runs %v, %v", got, err)
			break
		}
	}
	close(stop)
	writer.Wait()
	n.provide("10-flannel.conflist", flannel)
	n.wantChain("afterwards", "cbr0", "flannel", "adit-cni")
	// About 10 in 2 s with pauses that double from 50 ms to 1 s; without them it would be hundreds.
	if writes := n.Status().Writes; writes > 20 {
		t.Errorf("the chain was written %d times in 2 s", writes)
	}
}

// Somebody who removes or changes our own file is answered, and not in a hot loop.
func TestOurChainIsRestored(t *testing.T) {
	n := newNode(t)
	n.provide("10-flannel.conflist", flannel)
	n.start()
	n.wantChain("installed", "cbr0", "flannel", "adit-cni")
	ours := filepath.Join(n.conf, ownNames[0])
	for why, spoil := range map[string]func() error{
		"removed":   func() error { return os.Remove(ours) },
		"renamed":   func() error { return os.Rename(ours, ours+".bak") },
		"emptied":   func() error { return os.Truncate(ours, 0) },
		"changed":   func() error { return os.WriteFile(ours, []byte(flannel), 0o600) },
		"replaced":  func() error { n.provide(ownNames[0], flannel); return nil },
		"made open": func() error { return os.Chmod(ours, 0o666) },
	} {
		if err := spoil(); err != nil {
			t.Fatalf("%s: %v", why, err)
		}
		n.wantChain(why, "cbr0", "flannel", "adit-cni")
		if !n.eventually(func() bool { info, err := os.Stat(ours); return err == nil && info.Mode().Perm() == 0o600 }) {
			t.Errorf("%s: its mode is not that of its source", why)
		}
	}
	before := n.Status().Writes
	end := time.Now().Add(2 * time.Second)
	for time.Now().Before(end) {
		_ = os.Remove(ours)
		time.Sleep(time.Millisecond)
	}
	if writes := n.Status().Writes - before; writes > 20 {
		t.Errorf("while it was removed for 2 s the chain was written %d times", writes)
	}
	n.wantChain("in the end", "cbr0", "flannel", "adit-cni")
}

func TestBrokenConfigurationIsLeftAlone(t *testing.T) {
	n := newNode(t)
	n.provide("10-flannel.conflist", flannel)
	n.start()
	n.wantChain("installed", "cbr0", "flannel", "adit-cni")

	// The source breaks: what was made of it when it was whole stays.
	n.provide("10-flannel.conflist", flannel[:40])
	n.provide("20-bridge.conflist", bridge)
	n.wantProblem("10-flannel.conflist is not a JSON object")
	n.wantChain("the source is broken", "cbr0", "flannel", "adit-cni")
	if content, err := os.ReadFile(filepath.Join(n.conf, "10-flannel.conflist")); err != nil || string(content) != flannel[:40] {
		t.Errorf("the broken file is %q, %v; it is not ours to mend", content, err)
	}
	n.provide("10-flannel.conflist", flannel)
	if !n.eventually(func() bool { return len(n.Status().Problems) == 0 }) {
		t.Errorf("problems that are solved: %q", n.Status().Problems)
	}

	// A broken one comes before it.
	n.provide("05-broken.conf", `{"type": "bridge"}`)
	n.wantProblem(`05-broken.conf has no "name"; it is left alone`)
	n.wantChain("a broken one sorts before it", "cbr0", "flannel", "adit-cni")
}

func (n *node) wantProblem(want string) {
	n.Helper()
	if !n.eventually(func() bool {
		return slices.ContainsFunc(n.Status().Problems, func(p string) bool { return strings.Contains(p, want) })
	}) {
		n.Errorf("problems are %q; want %q", n.Status().Problems, want)
	}
	first, _, _ := strings.Cut(want, " ")
	said := 0
	for line := range strings.Lines(n.log.String()) {
		if strings.Contains(line, "level=WARN") && strings.Contains(line, first) {
			said++
		}
	}
	if said != 1 {
		n.Errorf("the log says it %d times, want once:\n%s", said, n.log)
	}
}

func TestNewParametersReplaceTheEntry(t *testing.T) {
	n := newNode(t)
	n.provide("10-flannel.conflist", flannel)
	n.start()
	n.wantChain("installed", "cbr0", "flannel", "adit-cni")
	n.stop()

	n.write(n.plugin, "the next plugin")
	n.Installer = n.installer()
	n.Socket, n.ExcludeNamespaces = "/run/adit/other.sock", nil
	n.start()
	if !n.eventually(func() bool {
		content, _ := os.ReadFile(filepath.Join(n.conf, ownNames[0]))
		return bytes.Contains(content, []byte("other.sock")) && !bytes.Contains(content, []byte("kube-system"))
	}) {
		t.Error("the chain has the parameters of the agent before")
	}
	if content, err := os.ReadFile(filepath.Join(n.bin, PluginName)); err != nil || string(content) != "the next plugin" {
		t.Errorf("the plugin is %q, %v; want that of this agent", content, err)
	}
	n.wantChain("once only", "cbr0", "flannel", "adit-cni")
}

func TestPluginIsRestored(t *testing.T) {
	n := newNode(t)
	n.provide("10-flannel.conflist", flannel)
	n.start()
	n.wantChain("installed", "cbr0", "flannel", "adit-cni")
	path := filepath.Join(n.bin, PluginName)
	for why, spoil := range map[string]func() error{
		"removed":            func() error { return os.Remove(path) },
		"overwritten":        func() error { return os.WriteFile(path, []byte("THE PLUGIN"), 0o755) },
		"not to be executed": func() error { return os.Chmod(path, 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if !n.eventually(func() bool {
			content, err := os.ReadFile(path)
			info, statErr := os.Stat(path)
			return err == nil && statErr == nil && string(content) == "the plugin" && info.Mode() == pluginMode
		}) {
			t.Errorf("%s: the plugin is not as it was", why)
		}
	}
}

func TestWithoutPluginNoChain(t *testing.T) {
	n := newNode(t)
	n.provide("10-flannel.conflist", flannel)
	if err := os.Remove(n.plugin); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.wantProblem("the plugin that came with the agent")
	n.wantChain("a chain that names a missing plugin starts no pod", "cbr0", "flannel")
}

// The plugins of a list's own directory, as of CNI 1.1, run before ours.
func TestPluginDirectory(t *testing.T) {
	n := newNode(t)
	if err := os.Mkdir(filepath.Join(n.conf, "podnet"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.write(filepath.Join(n.conf, "podnet", "20-tuning.conf"), `{"type": "tuning"}`)
	n.write(filepath.Join(n.conf, "podnet", "10-firewall.conf"), `{"type": "firewall"}`)
	n.provide("10-bridge.conflist", bridge)
	n.wantChain("without us", "podnet", "bridge", "portmap", "firewall", "tuning")
	n.start()
	n.wantChain("with us", "podnet", "bridge", "portmap", "firewall", "tuning", "adit-cni")
}

func TestDirectoriesThatComeLater(t *testing.T) {
	n := newNode(t)
	for _, dir := range []string{n.conf, n.bin} {
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	n.Interval = 50 * time.Millisecond
	n.start()
	if !n.eventually(func() bool { return len(n.Status().Problems) > 0 }) {
		t.Error("a directory that is missing is no problem")
	}
	for _, dir := range []string{n.conf, n.bin} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.provide("10-flannel.conflist", flannel)
	n.wantChain("the directories are there", "cbr0", "flannel", "adit-cni")
}

func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1, 0)
	var waits []time.Duration
	for range 8 {
		wait := p.delay(now)
		waits = append(waits, wait)
		now = now.Add(wait)
		p.wrote(now)
	}
	ms := time.Millisecond
	want := []time.Duration{0, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, time.Second, time.Second}
	if !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
	if wait := p.delay(now.Add(calm)); wait != 0 {
		t.Errorf("after a calm the next write waits %v", wait)
	}
}
