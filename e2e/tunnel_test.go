package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/testbed"
)

// The five ways a tunnel lies, through two agents: a half-close taken for a
// close, a refused upstream that looks accepted, a reset that looks like an
// end, a policy that changed and still lets through, a drain that cuts.

// way is one that a connection of the client can take.
type way struct {
	name   string
	s      testbed.Settings
	server func(*testbed.Network) *testbed.Pod
}

var (
	serverA = func(n *testbed.Network) *testbed.Pod { return n.ServerA }
	serverB = func(n *testbed.Network) *testbed.Pod { return n.ServerB }
	outside = func(n *testbed.Network) *testbed.Pod {
		return &testbed.Pod{Name: "outside", NS: n.NodeB.NS, V4: n.NodeB.V4, V6: n.NodeB.V6}
	}

	meshWays = []way{
		{"to another node", testbed.Settings{}, serverB},
		{"same node by tunnel", testbed.Settings{}, serverA},
		{"same node direct", testbed.Settings{SameNode: "direct"}, serverA},
	}
	allWays = append(slices.Clone(meshWays), way{"out of the mesh", testbed.Settings{}, outside})
)

func each(t *testing.T, ways []way, policies string, f func(t *testing.T, m *mesh, server *testbed.Pod)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			m := newMesh(t, policies, w.s)
			f(t, m, w.server(m.Network))
		})
	}
}

func TestHalfCloseStaysOne(t *testing.T) {
	each(t, allWays, testbed.OnlyClient, func(t *testing.T, m *mesh, server *testbed.Pod) {
		reply := make([]byte, 1<<20)
		_, _ = rand.Read(reply)
		heard := make(chan error, 1)
		serve(t, server, func(c *net.TCPConn) {
			mode := make([]byte, 1)
			if _, err := io.ReadFull(c, mode); err != nil {
				return
			}
			switch mode[0] {
			case 'c': // the client ends first, and only then is answered
				if _, err := io.Copy(io.Discard, c); err == nil {
					_, _ = c.Write(reply)
				}
			case 's': // the server ends first, and goes on listening
				_ = c.CloseWrite()
				got, err := io.ReadAll(c)
				if err == nil && !bytes.Equal(got, reply) {
					err = fmt.Errorf("%d of %d bytes arrived", len(got), len(reply))
				}
				heard <- err
			}
		})
		for _, to := range []netip.Addr{server.V4, server.V6} {
			halfCloseFirst(t, dial(t, m.Client, at(to)), reply)
			halfCloseSecond(t, dial(t, m.Client, at(to)), reply)
			select {
			case err := <-heard:
				if err != nil {
					t.Errorf("%s: what the client said after the server's half-close: %v", to, err)
				}
			case <-time.After(patience):
				t.Errorf("%s: the client's half-close after the server's never arrives", to)
			}
		}
	})
}

func halfCloseFirst(t *testing.T, c *net.TCPConn, reply []byte) {
	t.Helper()
	if _, err := io.WriteString(c, "c and a question"); err != nil {
		t.Fatal(err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, reply) {
		t.Errorf("%s: after the client's half-close %d of %d bytes came back, %v", c.RemoteAddr(), len(got), len(reply), err)
	}
}

func halfCloseSecond(t *testing.T, c *net.TCPConn, message []byte) {
	t.Helper()
	if _, err := io.WriteString(c, "s"); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, c); n != 0 || err != nil {
		t.Errorf("%s: the server's half-close arrives as %d bytes and %v", c.RemoteAddr(), n, err)
	}
	if _, err := c.Write(message); err != nil {
		t.Errorf("%s: write after the server's half-close: %v", c.RemoteAddr(), err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Errorf("%s: %v", c.RemoteAddr(), err)
	}
}

func TestRefusedUpstreamIsAReset(t *testing.T) {
	each(t, allWays, testbed.OnlyClient, func(t *testing.T, m *mesh, server *testbed.Pod) {
		for _, to := range []netip.Addr{server.V4, server.V6} {
			c, err := tryDial(t.Context(), m.Client, at(to)) // nobody listens there
			if err == nil {
				err = ends(c)
				_ = c.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s: %v; a refused upstream must not look like a clean end", to, err)
			}
		}
	})
}

func TestResetStaysAReset(t *testing.T) {
	each(t, allWays, testbed.OnlyClient, func(t *testing.T, m *mesh, server *testbed.Pod) {
		seen := make(chan error, 1)
		serve(t, server, func(c *net.TCPConn) {
			line := make([]byte, 5)
			if _, err := io.ReadFull(c, line); err != nil {
				return
			}
			_, _ = c.Write(line)
			if string(line) == "reset" {
				_ = c.SetLinger(0)
				return
			}
			seen <- ends(c)
		})
		c := dial(t, m.Client, at(server.V4))
		if err := roundTrip(c, "reset"); err != nil {
			t.Fatal(err)
		}
		if err := ends(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the server's reset arrives as %v", err)
		}
		c = dial(t, m.Client, at(server.V4))
		if err := roundTrip(c, "await"); err != nil {
			t.Fatal(err)
		}
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := <-seen; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client's reset arrives as %v", err)
		}
	})
}

// A reset after a half-close is where a proxy no longer reads the side that
// ended, and so may not hear of it.
func TestResetAfterHalfClose(t *testing.T) {
	each(t, allWays, testbed.OnlyClient, func(t *testing.T, m *mesh, server *testbed.Pod) {
		seen := make(chan error, 1)
		serve(t, server, func(c *net.TCPConn) {
			if _, err := io.Copy(io.Discard, c); err != nil {
				seen <- err
				return
			}
			// The client has ended and waits. Send until it is gone.
			_ = c.SetDeadline(time.Now().Add(patience))
			_, err := io.Copy(c, zeroes{})
			seen <- err
		})
		c := dial(t, m.Client, at(server.V4))
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		_ = c.SetLinger(0)
		_ = c.Close()
		if err := <-seen; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the client's reset after its half-close arrives as %v", err)
		}
	})
}

func TestPolicyChangeCutsWhatItForbids(t *testing.T) {
	both := testbed.OnlyClient + strings.NewReplacer("only-client", "also-intruder", "sa/client", "sa/intruder").Replace(testbed.OnlyClient)
	each(t, meshWays, both, func(t *testing.T, m *mesh, server *testbed.Pod) {
		serve(t, server, echo)
		stays, goes := dial(t, m.Client, at(server.V4)), dial(t, m.Intruder, at(server.V4))
		for _, c := range []net.Conn{stays, goes} {
			if err := roundTrip(c, "before\n"); err != nil {
				t.Fatal(err)
			}
		}
		agent := m.B
		if server.Node == m.NodeA {
			agent = m.A
		}
		offset := agent.LogOffset()
		m.setPolicies(t, testbed.OnlyClient)
		if err := ends(goes); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection that the policy now forbids ends with %v, want a reset", err)
		}
		if err := roundTrip(stays, "after\n"); err != nil {
			t.Errorf("a connection that the policy allows was disturbed: %v", err)
		}
		line, err := agent.Logged(t.Context(), offset, func(e testbed.Entry) bool {
			return e.Get("src.identity") == m.Intruder.Identity() && e.Get("direction") == "inbound"
		})
		if err != nil || !strings.Contains(line.Get("error"), "policy") {
			t.Errorf("the cut is logged as %q (%v); the line should say that a policy did it", line.Get("error"), err)
		}
	})
}

func TestDrainLetsStreamsFinish(t *testing.T) {
	for _, which := range []string{"client's agent", "server's agent"} {
		t.Run(which, func(t *testing.T) {
			m := newMesh(t, testbed.OnlyClient, testbed.Settings{DrainTimeout: 5 * time.Second})
			serve(t, m.ServerB, echo)
			c := dial(t, m.Client, at(m.ServerB.V4))
			if err := roundTrip(c, "before\n"); err != nil {
				t.Fatal(err)
			}
			agent := m.A
			if which == "server's agent" {
				agent = m.B
			}
			if err := agent.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			// As long as there is something to wait for, others are served, too.
			second := dial(t, m.Client, at(m.ServerB.V4))
			if err := roundTrip(second, "nobody else could take this"); err != nil {
				t.Errorf("an agent that waits for a connection to end serves no other: %v", err)
			}
			second.Close()
			// In the end new connections are not served, whoever says no.
			err := testbed.Poll(t.Context(), patience, func() error {
				fresh, err := tryDial(t.Context(), m.Client, at(m.ServerB.V4))
				if err != nil {
					return nil
				}
				defer fresh.Close()
				if err := roundTrip(fresh, "x"); err == nil {
					return errors.New("a draining agent still takes new connections")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if err := roundTrip(c, "while draining\n"); err != nil {
				t.Fatalf("the live connection was cut: %v", err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := ends(c); err != nil {
				t.Errorf("the live connection ends with %v", err)
			}
			select {
			case <-agent.Done():
			case <-time.After(patience):
				t.Error("the agent has nothing left to wait for and does not end")
			}
			if err := agent.Stop(); err != nil {
				t.Errorf("a drained agent ends with %v", err)
			}
		})
	}
}

func TestTunnelDroppedMidStream(t *testing.T) {
	m := newMesh(t, testbed.OnlyClient, testbed.Settings{})
	serve(t, m.ServerB, echo)
	c := dial(t, m.Client, at(m.ServerB.V4))
	if err := roundTrip(c, "before\n"); err != nil {
		t.Fatal(err)
	}
	m.B.Kill()
	if err := ends(c); err == nil || isTimeout(err) {
		t.Errorf("the peer's agent is gone and the connection ends with %v; want an error, soon", err)
	}
	if _, err := m.B.Start(t.Context(), testbed.Settings{}); err != nil {
		t.Fatal(err)
	}
	err := testbed.Poll(t.Context(), patience, func() error {
		c, err := tryDial(t.Context(), m.Client, at(m.ServerB.V4))
		if err != nil {
			return err
		}
		defer c.Close()
		return roundTrip(c, "after\n")
	})
	if err != nil {
		t.Errorf("the restarted agent serves nobody: %v", err)
	}
}
