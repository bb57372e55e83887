package bench

import (
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"sync"
)

// plainHalf is a TCP proxy without a tunnel: the floor under every path.
type plainHalf struct {
	warm
	next netip.AddrPort
	move func(dst, src *net.TCPConn) error
}

func (h *plainHalf) serve(l net.Listener) {
	serveEach(l, func(c *net.TCPConn) {
		next, err := dialTCP(h.next)
		if err != nil {
			reset(c)
			return
		}
		relay(c, next,
			func() error { return h.move(next, c) },
			func() error { return h.move(c, next) })
	})
}

// serveEach gives every connection of l a goroutine, until l closes.
func serveEach(l net.Listener, serve func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serve(c.(*net.TCPConn))
	}
}

// halfCloser is a connection whose directions end one by one.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// relay moves bytes both ways, passes each end on as a half-close, and closes both.
// An error in one direction resets both connections.
func relay(a, b halfCloser, toB, toA func() error) {
	var back sync.WaitGroup
	back.Go(func() { relayOne(a, b, toA) })
	relayOne(b, a, toB)
	back.Wait()
	a.Close()
	b.Close()
}

func relayOne(dst, src halfCloser, move func() error) {
	if err := move(); err != nil {
		abort(dst)
		abort(src)
		return
	}
	dst.CloseWrite()
}

// moveSpliced stays in the kernel: TCPConn.ReadFrom uses splice(2) for a TCPConn.
func moveSpliced(dst, src *net.TCPConn) error {
	_, err := dst.ReadFrom(src)
	return err
}

// copyBuffer is what the copying paths read at once.
const copyBuffer = 64 << 10

func moveCopied(dst, src *net.TCPConn) error { return copyBytes(dst, src, copyBuffer) }

// copyBytes copies through one buffer of user space, with the methods that would avoid it out of sight.
func copyBytes(dst io.Writer, src io.Reader, size int) error {
	buf := takeBuffer(size)
	defer giveBuffer(buf)
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buf)
	return err
}

// The rivals' buffers are pooled: made anew they would cost more than the rest of a short connection.
var buffers = map[int]*sync.Pool{copyBuffer: new(sync.Pool), netHTTP2Buffer: new(sync.Pool)}

func takeBuffer(size int) *[]byte {
	if buf, ok := buffers[size].Get().(*[]byte); ok {
		return buf
	}
	buf := make([]byte, size)
	return &buf
}

func giveBuffer(buf *[]byte) { buffers[len(*buf)].Put(buf) }

// abort ends c such that its peer cannot take it for an orderly end.
func abort(c net.Conn) {
	if secured, ok := c.(*tls.Conn); ok {
		c = secured.NetConn() // its own Close would say goodbye
	}
	reset(c.(*net.TCPConn))
}

// reset ends c so that its peer sees a failure rather than an end.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}
