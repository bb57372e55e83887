package enrol

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/agent/enrol/ask"
)

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestSocketIsOurs(t *testing.T) {
	n := newNode(t)
	dir := filepath.Dir(n.cfg.Socket)
	// As kubelet makes the directories of volumes, with what a killed agent left.
	n.must(os.Mkdir(dir, 0o755))
	for _, name := range []string{n.cfg.Socket, freshName(n.cfg.Socket)} {
		l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: name, Net: "unixpacket"})
		n.must(err)
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	n.start()
	if got := mode(t, dir); got != 0o700 {
		t.Errorf("the directory has mode %o", got)
	}
	if got := mode(t, n.cfg.Socket); got != 0o600 {
		t.Errorf("the socket has mode %o", got)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("there is more than the socket: %v, %v", entries, err)
	}
	if _, err := listen(n.cfg.Socket); err == nil || !strings.Contains(err.Error(), "another agent answers") {
		t.Errorf("a second agent at the same socket: %v", err)
	}
	n.must(ask.Agent(t.Context(), n.cfg.Socket, 0, ask.Request{Command: ask.Status}, nil))

	// Another agent's socket is not removed.
	n.must(os.Remove(n.cfg.Socket))
	n.must(os.WriteFile(n.cfg.Socket, nil, 0o600))
	n.stop()
	n.must(os.Remove(n.cfg.Socket))
	n.start()
	n.stop()
	if _, err := os.Lstat(n.cfg.Socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the agent that ended left its socket: %v", err)
	}
}

func TestSocketInADirectoryOfOthers(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "passwd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(filepath.Join(dir, "cni.sock")); err == nil || !strings.Contains(err.Error(), "holds passwd; give the socket a directory of its own") {
		t.Errorf("listen: %v", err)
	}
	if got := mode(t, dir); got != 0o755 {
		t.Errorf("a directory that is not ours has mode %o now", got)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(filepath.Join(link, "cni.sock")); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("a symbolic link to a directory: %v", err)
	}
	foreign := filepath.Join(t.TempDir(), "foreign")
	if err := errors.Join(os.Mkdir(foreign, 0o700), os.Chown(foreign, 65534, 65534)); err != nil {
		t.Skipf("a directory of somebody else cannot be made: %v", err)
	}
	if _, err := listen(filepath.Join(foreign, "cni.sock")); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Errorf("a directory of somebody else: %v", err)
	}
}

// Who is not root is not answered, even if he gets at the socket.
func TestOnlyRootIsAnswered(t *testing.T) {
	n := newNode(t).start()
	for path := filepath.Dir(n.cfg.Socket); path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		n.must(os.Chmod(path, 0o755))
	}
	n.must(os.Chmod(n.cfg.Socket, 0o666))
	if got := runStranger(t, n.cfg.Socket); got != "answer \"\"\n" {
		t.Errorf("uid 65534 gets %s", got)
	}
	n.eventually("it is logged", func() bool { return strings.Contains(n.log.String(), "asks as uid 65534") })
	n.must(ask.Agent(t.Context(), n.cfg.Socket, 0, ask.Request{Command: ask.Status}, nil))
}
