package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dialIn connects from the network namespace of a process, where the
// connection is captured as the pod's own are, and returns it with the name of who
// answers.
func dialIn(ctx context.Context, pid int, address string) (c net.Conn, server string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in the pod's namespace
		c, err := func() (net.Conn, error) {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
			if err != nil {
				return nil, err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}()
		done <- result{c, err}
	}()
	r := <-done
	if r.err != nil {
		return nil, "", r.err
	}
	deadline, _ := ctx.Deadline()
	_ = r.c.SetReadDeadline(deadline)
	line, err := bufio.NewReaderSize(r.c, 64).ReadString('\n') // it sends no more until it is asked
	if err != nil {
		_ = r.c.Close()
		return nil, "", err
	}
	_ = r.c.SetReadDeadline(time.Time{})
	server, _, _ = strings.Cut(line, " ")
	return r.c, server, nil
}
