package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/agent/proxy"
)

// roles are the configured encapsulate and terminate listeners.
type roles struct {
	encapsulate []proxy.Encapsulate
	terminate   []proxy.Terminate
}

// listenRoles opens every listener, so that a port that is taken ends the agent
// before anything is served.
func (a *Agent) listenRoles() (*roles, error) {
	r := new(roles)
	for i, e := range a.cfg.Encapsulate {
		role, err := encapsulate(e)
		if err == nil {
			role.Listener, err = listen(e.Listen)
		}
		if err != nil {
			r.close()
			return nil, fmt.Errorf("encapsulate[%d]: %w", i, err)
		}
		r.encapsulate = append(r.encapsulate, role)
	}
	for i, t := range a.cfg.Terminate {
		role, err := terminate(t)
		if err == nil {
			role.Listener, err = listen(t.Listen)
		}
		if err != nil {
			r.close()
			return nil, fmt.Errorf("terminate[%d]: %w", i, err)
		}
		r.terminate = append(r.terminate, role)
	}
	return r, nil
}

func encapsulate(e EncapsulateConfig) (role proxy.Encapsulate, err error) {
	role.Peer = e.Peer
	if role.Authority, err = proxy.ParseTemplate(e.Authority); err != nil {
		return role, err
	}
	for name, value := range e.Headers {
		h, err := proxy.ParseHeaderTemplate(name, value)
		if err != nil {
			return role, err
		}
		role.Header = append(role.Header, h)
	}
	if role.Identity, err = parseID(e.Identity); err != nil {
		return role, err
	}
	role.Expect, err = parseIDs(e.Expect)
	return role, err
}

func terminate(t TerminateConfig) (role proxy.Terminate, err error) {
	role.Upstream = t.Upstream
	if role.Identity, err = parseID(t.Identity); err != nil {
		return role, err
	}
	role.Allow, err = parseIDs(t.Allow)
	return role, err
}

func parseIDs(values []string) ([]spiffeid.ID, error) {
	ids := make([]spiffeid.ID, 0, len(values))
	for _, v := range values {
		id, err := parseID(v)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// serve runs every role in g until ctx ends.
func (r *roles) serve(ctx context.Context, a *Agent, g *group) {
	for _, e := range r.encapsulate {
		release := a.ids.Acquire(e.Identity)
		g.run("encapsulate on "+e.Listener.Addr().String(), func() error {
			defer release()
			return a.proxy.ServeEncapsulate(ctx, e)
		})
	}
	for _, t := range r.terminate {
		release := a.ids.Acquire(t.Identity)
		g.run("terminate on "+t.Listener.Addr().String(), func() error {
			defer release()
			return a.proxy.ServeTerminate(ctx, t)
		})
	}
}

func (r *roles) close() {
	for _, e := range r.encapsulate {
		e.Listener.Close()
	}
	for _, t := range r.terminate {
		t.Listener.Close()
	}
}

// listen opens a TCP listener, not an MPTCP one: those cannot be spliced.
func listen(addr string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%w; another process has the port: find it with ss -ltnp, or choose another one", err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%w; ports below 1024 need CAP_NET_BIND_SERVICE", err)
	}
	return l, err
}
