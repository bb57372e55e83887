package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// forward ends only with an error of the listener: it lives as long as its machine.
func forward(address string) error {
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return fmt.Errorf("file 3 is not a listener: %w", err)
	}
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil { // out of files, most likely: others will be given back
			fmt.Fprintln(os.Stderr, "accept:", err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go carry(c.(*net.TCPConn), address)
	}
}

// carry closes near. When the API server is away near is closed at once, which a
// client takes for an API server that is away.
func carry(near *net.TCPConn, address string) {
	defer near.Close()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return
	}
	far := c.(*net.TCPConn)
	defer far.Close()
	var both sync.WaitGroup
	pipe := func(dst, src *net.TCPConn) {
		if _, err := io.Copy(dst, src); err != nil {
			_ = dst.SetLinger(0)
			_ = dst.Close()
			return
		}
		_ = dst.CloseWrite()
	}
	both.Go(func() { pipe(far, near) })
	both.Go(func() { pipe(near, far) })
	both.Wait()
}
