package edge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// A backend answers every request with the same bytes, from one thread and without a handler, so that it is never what is measured:
//
//	GET /            128 bytes
//	GET /bulk/SIZE   that many
//	POST /           takes the body, answers as GET /
type backend struct {
	epoll     int
	listeners map[int]bool
	conns     map[int]*backendConn
	buf       []byte // of reads, one for all connections
}

var (
	smallBody   = bytes.Repeat([]byte("adit bench edge\n"), 8)
	smallAnswer = append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: "+strconv.Itoa(len(smallBody))+"\r\n\r\n"), smallBody...)
	bulkChunk   = bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
)

// A backendConn is what the backend remembers of a connection between events.
type backendConn struct {
	fd      int
	head    []byte // of a request that has not come whole
	skip    int64  // of the request's body
	chunked bool
	line    []byte // of a chunk's header, so far
	trailer bool   // after the last chunk
	left    int64  // of the answer's body
	blocked bool   // the socket takes no more of it for now
}

func (b *backend) handle(do string, arg json.RawMessage) (any, error) {
	if do != "listen" {
		return proc.HandleCommon(do)
	}
	addrs, err := proc.DecodeArg[[]string](arg)
	if err != nil {
		return nil, err
	}
	return b.listen(addrs)
}

// listen serves on the loopback addresses and returns them with their ports. Once only.
func (b *backend) listen(addrs []string) ([]string, error) {
	addrs, err := proc.FreePorts(addrs)
	if err != nil {
		return nil, err
	}
	b.listeners, b.conns, b.buf = make(map[int]bool), make(map[int]*backendConn), make([]byte, 256<<10)
	if b.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	for _, addr := range addrs {
		if err := b.open(addr); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
	go b.serve()
	return addrs, nil
}

func (b *backend) open(addr string) error {
	sa, err := sockaddr(addr)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	if err := unix.Listen(fd, 4096); err != nil {
		return err
	}
	b.listeners[fd] = true
	return b.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
}

func (b *backend) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(b.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (b *backend) serve() {
	runtime.LockOSThread()
	events := make([]unix.EpollEvent, 512)
	for {
		n, err := unix.EpollWait(b.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			panic(fmt.Sprintf("epoll_wait: %v", err))
		}
		for _, e := range events[:max(n, 0)] {
			fd := int(e.Fd)
			if b.listeners[fd] {
				b.accept(fd)
			} else if c := b.conns[fd]; c != nil && !b.turn(c) {
				delete(b.conns, fd)
				unix.Close(fd)
			}
		}
	}
}

func (b *backend) accept(listener int) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		b.conns[fd] = &backendConn{fd: fd}
		b.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
	}
}

// turn does what can be done for c without waiting; false means that c is over.
func (b *backend) turn(c *backendConn) bool {
	if c.left > 0 {
		return b.send(c)
	}
	var n int
	var err error
	if c.skip > 0 && !c.chunked {
		n, _, err = unix.Recvfrom(c.fd, b.buf[:min(int64(len(b.buf)), c.skip)], unix.MSG_TRUNC) // drops the bytes without copying them
	} else {
		n, err = unix.Read(c.fd, b.buf)
	}
	if err == unix.EAGAIN {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	if c.skip > 0 && !c.chunked {
		if c.skip -= int64(n); c.skip > 0 {
			return true
		}
		return b.write(c, smallAnswer)
	}
	return b.take(c, b.buf[:n])
}

// take deals with bytes that have arrived.
func (b *backend) take(c *backendConn, in []byte) bool {
	for len(in) > 0 {
		if c.chunked {
			rest, done := c.takeChunks(in)
			if in = rest; done && !b.write(c, smallAnswer) {
				return false
			}
			continue
		}
		if len(c.head) > 0 {
			in = append(c.head, in...)
			c.head = nil
		}
		end := bytes.Index(in, []byte("\r\n\r\n"))
		if end < 0 {
			c.head = append([]byte(nil), in...)
			return len(in) < 64<<10
		}
		head := in[:end+4]
		in = in[end+4:]
		switch {
		case bytes.HasPrefix(head, []byte("GET /bulk/")):
			size, _, _ := bytes.Cut(head[len("GET /bulk/"):], []byte(" "))
			c.left, _ = strconv.ParseInt(string(size), 10, 64)
			if !b.write(c, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", c.left)) {
				return false
			}
			return b.send(c)
		case head[0] == 'P':
			c.skip, c.chunked = bodyOf(head)
			if c.chunked {
				c.line, c.skip, c.trailer = nil, 0, false
				continue
			}
			if here := min(int64(len(in)), c.skip); here > 0 {
				c.skip -= here
				in = in[here:]
			}
			if c.skip > 0 {
				return true
			}
			fallthrough
		default:
			if !b.write(c, smallAnswer) {
				return false
			}
		}
	}
	return true
}

// bodyOf reads how a request's body is delimited.
func bodyOf(head []byte) (length int64, chunked bool) {
	for line := range bytes.Lines(head) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, _ = strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	return length, chunked
}

// takeChunks passes over a chunked body; done means that it was the end of it.
func (c *backendConn) takeChunks(in []byte) (rest []byte, done bool) {
	for len(in) > 0 {
		if c.skip > 0 {
			n := min(c.skip, int64(len(in)))
			c.skip -= n
			in = in[n:]
			continue
		}
		end := bytes.IndexByte(in, '\n')
		if end < 0 {
			c.line = append(c.line, in...)
			return nil, false
		}
		line := bytes.TrimSpace(append(c.line, in[:end]...))
		in, c.line = in[end+1:], nil
		if c.trailer {
			if len(line) == 0 {
				c.chunked = false
				return in, true
			}
			continue
		}
		if len(line) == 0 {
			continue // what ends a chunk
		}
		size, _ := strconv.ParseInt(string(line), 16, 64)
		c.skip, c.trailer = size, size == 0
	}
	return nil, false
}

// write sends a small answer. A client that has not read the last one is no client of ours.
func (b *backend) write(c *backendConn, p []byte) bool {
	n, err := unix.Write(c.fd, p)
	return err == nil && n == len(p)
}

// send goes on with a large body as far as the socket takes it.
func (b *backend) send(c *backendConn) bool {
	for c.left > 0 {
		n, err := unix.Write(c.fd, bulkChunk[:min(int64(len(bulkChunk)), c.left)])
		if err == unix.EAGAIN {
			if !c.blocked {
				c.blocked = true
				return b.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLOUT) == nil
			}
			return true
		}
		if err != nil {
			return false
		}
		c.left -= int64(n)
	}
	if c.blocked {
		c.blocked = false
		return b.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN) == nil
	}
	return true
}
