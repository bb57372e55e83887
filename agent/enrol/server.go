package enrol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/agent/enrol/ask"
)

const (
	// maxRequests bounds the requests that are answered at a time. Others wait
	// in the socket's queue. A node has some 110 pods.
	maxRequests = 256
	// receiveTimeout bounds how long a plugin may take for its request, and
	// sendTimeout for reading the reply.
	receiveTimeout = 5 * time.Second
	sendTimeout    = 5 * time.Second
)

// server is the socket that the CNI plugin asks at.
type server struct {
	listener *net.UnixListener
	path     string
	inode    uint64
}

// listen makes the socket in a directory that only the agent may enter. What an
// agent that was killed has left there is replaced.
func listen(path string) (*server, error) {
	if err := ownDirectory(path); err != nil {
		return nil, fmt.Errorf("CNI socket %s: %w", path, err)
	}
	if c, err := net.Dial("unixpacket", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("CNI socket %s: another agent answers there; a node has one", path)
	}
	// A plugin that asks now finds the old socket or the new one, never none.
	fresh := freshName(path)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("CNI socket: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: fresh, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("CNI socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // the name may be another agent's by then
	s := &server{listener: l, path: path}
	err = os.Chmod(fresh, 0o600)
	if err == nil {
		err = os.Rename(fresh, path)
	}
	if err == nil {
		s.inode, err = inodeOf(path)
	}
	if err != nil {
		_ = l.Close()
		_ = os.Remove(fresh)
		return nil, fmt.Errorf("CNI socket: %w", err)
	}
	return s, nil
}

// freshName is short, since a socket's path may have 107 bytes only.
func freshName(path string) string { return filepath.Join(filepath.Dir(path), ".new") }

// ownDirectory makes the socket's directory, or makes sure that one that is there
// is the agent's alone.
func ownDirectory(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d, who could put a socket of his own there", dir, st.Uid)
	case info.Mode().Perm() == 0o700:
		return nil
	}
	// kubelet makes the directories of volumes open to all. One that others use
	// too is not ours to close.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) && e.Name() != filepath.Base(freshName(path)) {
			return fmt.Errorf("%s is open to others and holds %s; give the socket a directory of its own", dir, e.Name())
		}
	}
	return os.Chmod(dir, 0o700)
}

// serve answers requests with handle until ctx ends, and returns when all of
// them have been. A request that is not answered by then is not answered at all:
// the plugin asks the next agent.
func (s *server) serve(ctx context.Context, log *slog.Logger, handle func(context.Context, ask.Request, *os.File) error) error {
	stop := context.AfterFunc(ctx, func() { _ = s.listener.Close() })
	defer stop()
	defer s.close()
	var requests sync.WaitGroup
	defer requests.Wait()
	slots := make(chan struct{}, maxRequests)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := s.listener.AcceptUnix()
		if err != nil {
			<-slots
			if ctx.Err() != nil {
				return nil
			}
			if !errors.Is(err, unix.EMFILE) && !errors.Is(err, unix.ENFILE) && !errors.Is(err, unix.ECONNABORTED) {
				return fmt.Errorf("CNI socket %s: %w", s.path, err)
			}
			log.Error("the CNI plugin is not heard", "error", err)
			sleep(ctx, time.Second)
			continue
		}
		requests.Go(func() {
			defer func() { <-slots }()
			s.request(ctx, log, c, handle)
		})
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// request answers one request. It closes c.
func (s *server) request(ctx context.Context, log *slog.Logger, c *net.UnixConn, handle func(context.Context, ask.Request, *os.File) error) {
	defer c.Close()
	if err := fromRoot(c); err != nil {
		log.Warn("CNI request refused", "error", err)
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(receiveTimeout))
	cut := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	r, netns, err := ask.Receive(c)
	cut()
	if err != nil {
		log.Warn("CNI request refused", "error", err)
		reply(c, err)
		return
	}
	if netns != nil {
		defer netns.Close()
	}
	asked, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		awaitHangup(c)
		cancel(errHungUp)
	}()
	err = handle(asked, r, netns)
	if err == nil || ctx.Err() == nil {
		reply(c, err)
	}
	_ = c.CloseRead()
	_ = c.SetReadDeadline(time.Unix(1, 0))
	<-watched
	cancel(nil)
}

var errHungUp = errors.New("the container runtime does not wait any longer")

// awaitHangup returns when the plugin has gone. It sends nothing more.
func awaitHangup(c *net.UnixConn) {
	_ = c.SetReadDeadline(time.Time{})
	_, _ = c.Read(make([]byte, 1))
}

func reply(c *net.UnixConn, err error) {
	_ = c.SetWriteDeadline(time.Now().Add(sendTimeout))
	r := ask.Reply{OK: err == nil}
	if err != nil {
		r.Error = err.Error()
	}
	_ = ask.Answer(c, r) // a plugin that has gone is its runtime's affair
}

// fromRoot refuses a process that is not root. The kernel gives the uid as the
// agent's user namespace has it: root of another one is not 0 here.
func fromRoot(c *net.UnixConn) error {
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var optErr error
	err = rc.Control(func(fd uintptr) { peer, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, optErr); err != nil {
		return err
	}
	if peer.Uid != 0 {
		return fmt.Errorf("pid %d asks as uid %d; container runtimes run as root", peer.Pid, peer.Uid)
	}
	return nil
}

// close removes the socket, unless the name is another agent's by now.
func (s *server) close() {
	_ = s.listener.Close()
	if inode, err := inodeOf(s.path); err == nil && inode == s.inode {
		_ = os.Remove(s.path)
	}
}
