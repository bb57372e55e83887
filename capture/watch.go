package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watchPause is how long a watch that broke waits before it listens again.
const watchPause = time.Second

// author is who committed a change to our table.
type author struct {
	gen  uint32 // the generation of the ruleset that the change made
	pid  uint32
	comm string
}

// generations is a stretch of a ruleset's history, both ends excluded. When they are equal it has no end.
type generations struct{ after, before uint32 }

// holds copes with generations wrapping around.
func (g generations) holds(gen uint32) bool {
	return int32(gen-g.after) > 0 && (g.after == g.before || int32(g.before-gen) > 0)
}

// authorsKept is how many of the last changes to our table have their author remembered.
const authorsKept = 16

// authorWait is how long the report of a repair may wait to learn who made it necessary: the kernel has sent
// that by then, but it may not have been read yet.
const authorWait = 200 * time.Millisecond

// watch listens to what the kernel reports of one namespace: commits of nftables that touch our table, and,
// where we have some, changes to routes and rules.
type watch struct {
	table   string
	changed chan struct{} // one slot
	cancel  context.CancelFunc
	loops   sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	authors []author   // of the last changes, oldest first
	heard   chan struct{}
}

func startWatch(ctx context.Context, n *Netns, logger *slog.Logger, table string, routing bool) *watch {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{table: table, changed: make(chan struct{}, 1), cancel: cancel, heard: make(chan struct{})}
	w.loops.Go(func() {
		w.listen(ctx, n, logger, unix.NETLINK_NETFILTER, w.nftMessages(), unix.NFNLGRP_NFTABLES)
	})
	if routing {
		w.loops.Go(func() {
			w.listen(ctx, n, logger, unix.NETLINK_ROUTE, w.routeMessages,
				unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_RULE)
		})
	}
	return w
}

// stop ends the watch and waits for its goroutines.
func (w *watch) stop() {
	w.cancel()
	w.loops.Wait()
}

// authorIn returns the last author of a change in the span, or the zero author if none is heard of in time.
func (w *watch) authorIn(ctx context.Context, span generations) author {
	ctx, cancel := context.WithTimeout(ctx, authorWait)
	defer cancel()
	for {
		w.mu.Lock()
		authors, heard := w.authors, w.heard
		w.mu.Unlock()
		for i := len(authors) - 1; i >= 0; i-- {
			if span.holds(authors[i].gen) {
				return authors[i]
			}
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return author{}
		}
	}
}

func (w *watch) remember(a author) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.authors[max(0, len(w.authors)-authorsKept+1):]
	w.authors = append(slices.Clone(kept), a)
	close(w.heard)
	w.heard = make(chan struct{})
}

func (w *watch) signal() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// listen receives messages until ctx ends, on a new socket when one breaks.
func (w *watch) listen(ctx context.Context, n *Netns, logger *slog.Logger, family int, handle func([]netlink.Message), groups ...uint32) {
	for ctx.Err() == nil {
		err := w.listenOnce(ctx, n, family, handle, groups)
		if ctx.Err() != nil || errors.Is(err, os.ErrClosed) {
			return
		}
		logger.Warn("watch of the network namespace interrupted; checking it at intervals only", "error", err, "retry", watchPause)
		w.signal()
		if !sleep(ctx, watchPause) {
			return
		}
	}
}

func (w *watch) listenOnce(ctx context.Context, n *Netns, family int, handle func([]netlink.Message), groups []uint32) error {
	var conn *netlink.Conn
	err := control(n.file, func(fd int) (err error) {
		conn, err = netlink.Dial(family, &netlink.Config{NetNS: fd})
		return err
	})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer conn.Close()
	defer stop()
	for _, g := range groups {
		if err := conn.JoinGroup(g); err != nil {
			return err
		}
	}
	// What changed before the socket listened was reported to nobody.
	w.signal()
	for {
		msgs, err := conn.Receive()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			w.signal() // more changed than the socket could hold
		case err != nil:
			return err
		default:
			handle(msgs)
		}
	}
}

// nftMessages returns a handler that keeps, between calls, whether the transaction being reported touched our
// table. Its last message names the generation and the author.
func (w *watch) nftMessages() func([]netlink.Message) {
	touched := false
	return func(msgs []netlink.Message) {
		for _, m := range msgs {
			if len(m.Data) < 4 {
				continue
			}
			if m.Header.Type == nftType(unix.NFT_MSG_NEWGEN) {
				if touched {
					w.remember(authorOf(m))
					w.signal()
				}
				touched = false
				continue
			}
			// The first attribute of every kind of object names the table.
			touched = touched || nameOf(m, unix.NFTA_TABLE_NAME) == w.table
		}
	}
}

func authorOf(m netlink.Message) (a author) {
	for _, at := range attributes(m.Data[4:]) {
		switch {
		case at.Type == unix.NFTA_GEN_ID && len(at.Data) == 4:
			a.gen = binary.BigEndian.Uint32(at.Data)
		case at.Type == unix.NFTA_GEN_PROC_PID && len(at.Data) == 4:
			a.pid = binary.BigEndian.Uint32(at.Data)
		case at.Type == unix.NFTA_GEN_PROC_NAME:
			a.comm = text(at.Data)
		}
	}
	return a
}

func (w *watch) routeMessages([]netlink.Message) { w.signal() }
