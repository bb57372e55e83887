package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

// podLab is a node with pods on a bridge. Each pod's netns in the mesh file is
// a link that the test can point elsewhere.
//
//	client1 ─┐
//	client2 ─┼─ switch
//	server  ─┘
type podLab struct {
	t   *testing.T
	lab *lab.Lab
	sw  *lab.Namespace
	dir string
	// account is the server's service account.
	account string
	// hairpin is the VIP of a service of the last workload, "" for none.
	hairpin string
}

func newPodLab(t *testing.T) *podLab {
	l := &podLab{t: t, lab: labtest.New(t), dir: t.TempDir(), account: "server"}
	sw, err := l.lab.Namespace("switch")
	l.must(err)
	l.sw = sw
	l.must(sw.Bridge("br0"))
	l.must(sw.Up("br0"))
	return l
}

func (l *podLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// pod makes a namespace that has addr.
func (l *podLab) pod(name, addr string) *lab.Namespace {
	l.t.Helper()
	ns, err := l.lab.Namespace(name)
	l.must(err)
	port := "to-" + name
	l.must(l.lab.Veth(ns, "eth0", l.sw, port))
	l.must(l.sw.Attach("br0", port))
	l.must(ns.AddAddr("eth0", netip.MustParsePrefix(addr+"/24")))
	return ns
}

// link points the name that the mesh file uses at a namespace.
func (l *podLab) link(name string, ns *lab.Namespace) {
	l.t.Helper()
	temp := filepath.Join(l.dir, "."+name)
	l.must(os.Symlink(ns.Path(), temp))
	l.must(os.Rename(temp, filepath.Join(l.dir, name)))
}

// world writes the mesh file. Names are in captured if the agent is to capture
// them; the others are plain TCP.
func (l *podLab) world(captured ...string) {
	l.t.Helper()
	var sb strings.Builder
	sb.WriteString("workloads:\n")
	for _, pod := range [][2]string{{"client", "10.9.0.2"}, {"server", "10.9.0.3"}} {
		name, addr := pod[0], pod[1]
		account := name
		if name == "server" {
			account = l.account
		}
		fmt.Fprintf(&sb, "- uid: cluster//Pod/default/%[1]s\n  name: %[1]s\n  namespace: default\n  serviceAccount: %[3]s\n  workloadIps: [%[2]s]\n", name, addr, account)
		for _, c := range captured {
			if c == name {
				fmt.Fprintf(&sb, "  protocol: HBONE\n  node: node-a\n  netns: %s\n", filepath.Join(l.dir, name))
			}
		}
	}
	if l.hairpin != "" {
		sb.WriteString("  services:\n    default/self.default.svc.cluster.local:\n      80: 8080\n")
	}
	sb.WriteString("policies: []\n")
	if l.hairpin != "" {
		fmt.Fprintf(&sb, "services:\n- name: self\n  namespace: default\n  hostname: self.default.svc.cluster.local\n  vips: [/%s]\n  ports:\n    80: 8080\n", l.hairpin)
	}
	temp := filepath.Join(l.dir, ".world")
	l.must(os.WriteFile(temp, []byte(sb.String()), 0o600))
	l.must(os.Rename(temp, filepath.Join(l.dir, "world.yaml")))
}

func (l *podLab) agent() *running {
	cfg := testConfig(l.t)
	cfg.NodeName = "node-a"
	cfg.World.File = filepath.Join(l.dir, "world.yaml")
	cfg.CA.Directory = filepath.Join(l.dir, "ca")
	cfg.DrainTimeout = 3 * time.Second
	return start(l.t, cfg)
}

// echo serves 10.9.0.3:8080 in ns: the client's address first, then an echo.
func (l *podLab) echo(ns *lab.Namespace) {
	l.t.Helper()
	ln, err := ns.Listen("tcp", "10.9.0.3:8080")
	l.must(err)
	l.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
				fmt.Fprintf(c, "%-15s", host)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// call connects from ns to the server and returns the address that it saw.
func call(ns *lab.Namespace) (c net.Conn, saw string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	c, err = ns.Dial(ctx, nil, "tcp", "10.9.0.3:8080")
	if err != nil {
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	b := make([]byte, 15)
	if _, err := io.ReadFull(c, b); err != nil {
		c.Close()
		return nil, "", err
	}
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c, strings.TrimSpace(string(b)), nil
}

func (l *podLab) pass(ns *lab.Namespace, why string) net.Conn {
	l.t.Helper()
	c, saw, err := call(ns)
	if err != nil {
		l.t.Fatalf("%s: %v", why, err)
	}
	l.t.Cleanup(func() { c.Close() })
	if saw != "10.9.0.2" {
		l.t.Errorf("%s: the server saw %s, want the client's own 10.9.0.2", why, saw)
	}
	roundTrip(l.t, c, "hello")
	return c
}

func (r *running) pod(uid string) PodStatus {
	r.t.Helper()
	_, body := r.get(r.cfg.Admin, "/config_dump")
	var dump struct{ Pods []PodStatus }
	if err := json.Unmarshal([]byte(body), &dump); err != nil {
		r.t.Fatalf("config_dump: %v\n%s", err, body)
	}
	for _, p := range dump.Pods {
		if p.UID == "cluster//Pod/default/"+uid {
			return p
		}
	}
	return PodStatus{State: "absent"}
}

func (r *running) waitPod(uid, why string, ok func(PodStatus) bool) PodStatus {
	r.t.Helper()
	var p PodStatus
	eventually(r.t, why, func() bool {
		p = r.pod(uid)
		return ok(p)
	}, func() string { return fmt.Sprintf("%+v\n%s", p, r.log) })
	return p
}

// TestPodLife: a pod that cannot start holds up nobody; it is captured as soon
// as it can be, again when its namespace is replaced, keeps its rules while no
// agent runs, and leaves without a connection lost.
func TestPodLife(t *testing.T) {
	l := newPodLab(t)
	server := l.pod("server", "10.9.0.3")
	l.link("server", server)
	l.echo(server)
	l.world("client", "server")
	a := l.agent() // ready although client has no namespace yet

	if p := a.pod("server"); p.State != PodServing {
		t.Errorf("server: %+v, want it served although client cannot be", p)
	}
	p := a.waitPod("client", "client is retried", func(p PodStatus) bool { return p.State == PodRetrying })
	if !strings.Contains(p.Error, filepath.Join(l.dir, "client")) {
		t.Errorf("the error does not say which namespace is missing: %q", p.Error)
	}
	if status, body := a.get(a.cfg.Readiness, "/healthz/ready"); status != 200 || !strings.Contains(body, "failing: pod cluster//Pod/default/client") {
		t.Errorf("readiness: %d %q, want 200 and the failing pod", status, body)
	}

	client := l.pod("client1", "10.9.0.2")
	l.link("client", client)
	first := a.waitPod("client", "client is captured once its namespace is there", func(p PodStatus) bool { return p.State == PodServing })
	c := l.pass(client, "through the mesh")
	if a.pod("server").Connections != 1 {
		t.Errorf("server: %+v, want one live connection", a.pod("server"))
	}
	c.Close()

	// Another namespace under the same name.
	l.must(client.Down("eth0"))
	client2 := l.pod("client2", "10.9.0.2")
	l.link("client", client2)
	a.waitPod("client", "client is captured in its new namespace", func(p PodStatus) bool {
		return p.State == PodServing && p.Inode != first.Inode
	})
	l.pass(client2, "through the mesh, from the new namespace").Close()

	// Another identity for the same pod.
	l.account = "server-two"
	l.world("client", "server")
	a.waitPod("server", "server is served under its new identity", func(p PodStatus) bool {
		return p.State == PodServing && strings.HasSuffix(p.Identity, "/server-two")
	})
	l.pass(client2, "to the server's new identity").Close()
	eventually(t, "the log names the new identity", func() bool {
		return strings.Contains(a.access.String(), "/sa/server-two")
	}, func() string { return a.access.String() })

	// No agent: no network, rather than plaintext.
	if err := a.stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if c, saw, err := call(client2); err == nil {
		c.Close()
		t.Errorf("without an agent the client reached the server, which saw %s", saw)
	}
	a = l.agent()
	live := l.pass(client2, "after the agent's restart")

	// Out of the mesh, both of them.
	l.world()
	eventually(t, "the pods are on their way out", func() bool {
		return a.pod("server").State != PodServing && a.pod("client").State != PodServing
	}, func() string { return a.log.String() })
	roundTrip(t, live, "a live connection goes on while its pod is drained")
	l.pass(client2, "new connections go past the agent").Close()
	live.Close()
	eventually(t, "the pods are gone", func() bool {
		return a.pod("server").State == "absent" && a.pod("client").State == "absent"
	}, func() string { return a.log.String() })
	l.pass(client2, "without capture").Close()
	if err := a.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// TestHairpin: a pod reaches itself by a service's address, as itself.
func TestHairpin(t *testing.T) {
	l := newPodLab(t)
	server := l.pod("server", "10.9.0.3")
	l.link("server", server)
	l.echo(server)
	l.must(server.DefaultRoute(netip.MustParseAddr("10.9.0.1")))
	l.hairpin = "10.96.0.1"
	l.world("server")
	a := l.agent()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := server.Dial(ctx, nil, "tcp", "10.96.0.1:80")
	l.must(err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	saw := make([]byte, 15)
	if _, err := io.ReadFull(c, saw); err != nil {
		t.Fatalf("%v\n%s%s", err, a.access, a.log)
	}
	if got := strings.TrimSpace(string(saw)); got != "10.9.0.3" {
		t.Errorf("the server saw %s, want its own address", got)
	}
	roundTrip(t, c, "hello")
}

// TestSharedNetns: two workloads that name one namespace are a mistake that the
// second one is told of.
func TestSharedNetns(t *testing.T) {
	l := newPodLab(t)
	server := l.pod("server", "10.9.0.3")
	l.link("server", server)
	l.link("client", server)
	l.world("client", "server")
	a := l.agent()
	eventually(t, "one of the two is served, the other told why not", func() bool {
		p, q := a.pod("client"), a.pod("server")
		if p.State == PodServing {
			p, q = q, p
		}
		return q.State == PodServing && strings.Contains(p.Error, "a namespace holds one pod")
	}, func() string { return a.log.String() })
}
