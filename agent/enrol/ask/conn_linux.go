package ask

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Receive reads the request of a connection that the agent has accepted, and the
// network namespace that came with it, nil if none did; the caller closes it. A
// deadline is the caller's to set.
func Receive(c *net.UnixConn) (Request, *os.File, error) {
	message, files, err := receive(c)
	if err != nil {
		return Request{}, nil, err
	}
	r, err := Parse(message)
	if err == nil && len(files) > 1 {
		err = fmt.Errorf("%d files, not one network namespace", len(files))
	}
	if err != nil || len(files) == 0 {
		closeAll(files)
		return r, nil, err
	}
	return r, files[0], nil
}

// Answer sends the reply.
func Answer(c *net.UnixConn, r Reply) error {
	// The other side reads no more than this.
	const longest = maxMessage / 8 // JSON may need six bytes for one
	if len(r.Error) > longest {
		r.Error = r.Error[:longest] + "…"
	}
	return send(c, r, nil)
}

func send(c *net.UnixConn, v any, file *os.File) error {
	message, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(message) > maxMessage {
		return fmt.Errorf("message of %d bytes, more than %d", len(message), maxMessage)
	}
	if file == nil {
		_, _, err = c.WriteMsgUnix(message, nil, nil)
		return err
	}
	rc, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = rc.Control(func(fd uintptr) {
		_, _, sendErr = c.WriteMsgUnix(message, unix.UnixRights(int(fd)), nil)
	})
	return errors.Join(err, sendErr)
}

// receive reads one message. Its files are closed on exec.
func receive(c *net.UnixConn) (message []byte, files []*os.File, err error) {
	message = make([]byte, maxMessage)
	// Room for more files than anybody should send, so that they are seen and
	// closed rather than cut off.
	rights := make([]byte, unix.CmsgSpace(8*4))
	n, rightsLen, flags, _, err := c.ReadMsgUnix(message, rights)
	if err != nil {
		return nil, nil, err
	}
	files, err = filesOf(rights[:rightsLen])
	switch {
	case err != nil:
	case flags&unix.MSG_TRUNC != 0:
		err = fmt.Errorf("message longer than %d bytes", maxMessage)
	case flags&unix.MSG_CTRUNC != 0:
		err = errors.New("more files than one network namespace")
	}
	if err != nil {
		closeAll(files)
		return nil, nil, err
	}
	return message[:n], files, nil
}

func filesOf(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		if messages[i].Header.Level != unix.SOL_SOCKET || messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, rightsErr := unix.ParseUnixRights(&messages[i])
		err = errors.Join(err, rightsErr)
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "network namespace"))
		}
	}
	return files, err
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
