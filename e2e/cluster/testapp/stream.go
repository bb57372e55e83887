package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// stream opens connections to TARGET, HOST:PORT of a TCP echo, and sends a line
// on each every so often. OK counts lines that came back. A connection that breaks
// counts as Failed and is opened again.
//
//	-conns 1        connections
//	-every 100ms    between lines of one connection
//	-for 0          how long; 0 is until SIGTERM
//	-timeout 5s     for a connection to stand, and for a line to come back
//	-fail           exit with an error if any broke
func stream(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("stream", flag.ContinueOnError)
	conns := flags.Int("conns", 1, "")
	every := flags.Duration("every", 100*time.Millisecond, "")
	patience := flags.Duration("for", 0, "")
	timeout := flags.Duration("timeout", 5*time.Second, "")
	strict := flags.Bool("fail", false, "")
	target, err := parse(flags, args)
	if err != nil {
		return err
	}
	if *patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *patience)
		defer cancel()
	}
	s := &streams{target: target, every: *every, timeout: *timeout, total: newTotal()}
	var all sync.WaitGroup
	for range *conns {
		all.Go(func() { s.keep(ctx) })
	}
	report := time.NewTicker(time.Second)
	defer report.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-report.C:
			s.mu.Lock()
			s.total.print()
			s.mu.Unlock()
		}
	}
	all.Wait()
	s.total.Done = true
	s.total.print()
	if *strict && (s.total.Failed > 0 || s.total.OK == 0) {
		return fmt.Errorf("%d breaks, %d lines: %s", s.total.Failed, s.total.OK, s.total.Last)
	}
	return nil
}

type streams struct {
	target         string
	every, timeout time.Duration

	mu    sync.Mutex // guards total
	total *total
}

func (s *streams) keep(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.one(ctx)
		if err == nil {
			return
		}
		s.mu.Lock()
		s.total.fail(err)
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(s.every):
		}
	}
}

// one returns nil when ctx ends.
func (s *streams) one(ctx context.Context) error {
	opening, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c, err := dial(opening, "tcp", s.target)
	if err != nil {
		return unless(ctx, err)
	}
	defer c.Close()
	// Closing is half done when the client stops: the echo has to end by itself.
	r := bufio.NewReader(c)
	server, peer, err := greeting(r)
	if err != nil {
		return unless(ctx, err)
	}
	for n := 0; ; n++ {
		_ = c.SetDeadline(time.Now().Add(s.timeout))
		line := fmt.Sprintf("line %d\n", n)
		if _, err := io.WriteString(c, line); err != nil {
			return err
		}
		back, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("after %d lines: %w", n, err)
		}
		if back != line {
			return fmt.Errorf("line %d came back as %q", n, back)
		}
		s.mu.Lock()
		s.total.succeed(server, peer)
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return finish(c, r)
		case <-time.After(s.every):
		}
	}
}

// finish closes our half and wants the other half closed, not reset.
func finish(c net.Conn, r *bufio.Reader) error {
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	if rest, err := io.ReadAll(r); err != nil {
		return fmt.Errorf("at the end: %w", err)
	} else if len(rest) > 0 {
		return errors.New("more came back than was sent")
	}
	return nil
}

// unless forgives what went wrong because time was up.
func unless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
