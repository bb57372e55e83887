package ask

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// ErrAway is why an agent that is not there has not answered.
var ErrAway = errors.New("the agent of this node is away")

// RefusedError is an agent's answer that is not yes.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// pauseAway is between attempts to reach an agent that is away: about as long as
// one takes to start.
const pauseAway = 100 * time.Millisecond

// Agent asks the agent that listens at a socket, and returns nil when it has
// said yes. netns may be nil; it stays the caller's. While the agent is away it
// is asked again, for as long as patience at a time; then the error is ErrAway.
// An agent that restarts while it is being asked is asked again too: a request
// may be made twice.
func Agent(ctx context.Context, socket string, patience time.Duration, r Request, netns *os.File) error {
	away := time.Now()
	for {
		began := time.Now()
		err := once(ctx, socket, r, netns)
		if !errors.Is(err, ErrAway) {
			return err
		}
		if time.Since(began) > pauseAway {
			away = time.Now() // it was there until now
		}
		if time.Since(away)+pauseAway > patience {
			return err
		}
		timer := time.NewTimer(pauseAway)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func once(ctx context.Context, socket string, r Request, netns *os.File) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unixpacket", socket)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c := conn.(*net.UnixConn)
	if err := send(c, r, netns); err != nil {
		return lost(ctx, err)
	}
	message, files, err := receive(c)
	closeAll(files)
	if err != nil {
		return lost(ctx, err)
	}
	var reply Reply
	switch err := json.Unmarshal(message, &reply); {
	case err != nil:
		return fmt.Errorf("the agent's answer makes no sense: %w", err)
	case !reply.OK:
		return &RefusedError{Reason: reply.Error}
	}
	return nil
}

// lost is why there is no answer.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("no answer from the agent of this node: %w", context.Cause(ctx))
	}
	return fmt.Errorf("%w: %w", ErrAway, err)
}
