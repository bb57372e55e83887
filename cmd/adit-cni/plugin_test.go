package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"github.com/adit-mesh/adit/agent/enrol/ask"
)

// TestMain is the plugin when the test binary is called by its name, and the one
// before it in the chain when it is called by that one's.
func TestMain(m *testing.M) {
	switch filepath.Base(os.Args[0]) {
	case "adit-cni":
		main()
		os.Exit(0)
	case "first":
		first()
		os.Exit(0)
	}
	// The race detector would have each plugin sleep for a second at its end.
	_ = os.Setenv("GORACE", strings.TrimSpace(os.Getenv("GORACE")+" atexit_sleep_ms=0"))
	os.Exit(m.Run())
}

// first is a plugin that gives an address, as bridge does, in the shape of each
// version of the specification.
func first() {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		fmt.Print(`{"cniVersion": "1.1.0", "supportedVersions": ["0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}`)
		return
	}
	var c struct{ CNIVersion string }
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		os.Exit(1)
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		fmt.Print(results[c.CNIVersion])
	}
}

var results = map[string]string{
	"0.2.0": `{"cniVersion": "0.2.0", "ip4": {"ip": "10.244.1.7/24", "gateway": "10.244.1.1"}}`,
	"0.3.1": `{"cniVersion": "0.3.1", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "NETNS"}], "ips": [{"version": "4", "interface": 1, "address": "10.244.1.7/24"}]}`,
	"0.4.0": `{"cniVersion": "0.4.0", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "NETNS"}], "ips": [{"version": "4", "interface": 1, "address": "10.244.1.7/24"}]}`,
	"1.0.0": `{"cniVersion": "1.0.0", "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "NETNS"}], "ips": [{"interface": 1, "address": "10.244.1.7/24"}, {"interface": 0, "address": "10.244.1.1/24"}], "dns": {"nameservers": ["10.96.0.10"]}}`,
	"1.1.0": `{"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "NETNS", "mtu": 1450}], "ips": [{"address": "10.244.1.7/24"}], "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}]}`,
}

// agent is one that gives the answers it is told to.
type agent struct {
	testing.TB
	socket string
	answer func(ask.Request, *os.File) ask.Reply

	mu    sync.Mutex
	asked []ask.Request
}

func newAgent(t testing.TB, answer func(ask.Request, *os.File) ask.Reply) *agent {
	t.Helper()
	a := &agent{TB: t, socket: filepath.Join(t.TempDir(), "s"), answer: answer}
	a.listen()
	return a
}

func yes(ask.Request, *os.File) ask.Reply { return ask.Reply{OK: true} }

func (a *agent) listen() {
	a.Helper()
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: a.socket, Net: "unixpacket"})
	if err != nil {
		a.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			r, netns, err := ask.Receive(c)
			if err != nil {
				a.Errorf("request: %v", err)
			}
			a.mu.Lock()
			a.asked = append(a.asked, r)
			a.mu.Unlock()
			_ = ask.Answer(c, a.answer(r, netns))
			if netns != nil {
				netns.Close()
			}
			c.Close()
		}
	}()
	a.Cleanup(func() { l.Close(); <-done })
}

func (a *agent) requests() []ask.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.asked)
}

// netns is a file for CNI_NETNS. What it is does not matter to the plugin.
func netns(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const podArgsText = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=0b9c7ab4-9c1d"

// call runs the plugin as a container runtime does.
type call struct {
	command, netns, args, stdin string
}

type outcome struct {
	stdout, stderr string
	exit           int
}

func (c call) run(t testing.TB) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args[0] = "adit-cni"
	cmd.Env = []string{
		"CNI_COMMAND=" + c.command, "CNI_CONTAINERID=c0ffee", "CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin",
		"CNI_NETNS=" + c.netns, "CNI_ARGS=" + c.args, "GORACE=" + os.Getenv("GORACE"),
	}
	cmd.Stdin = strings.NewReader(c.stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s: %v, %v", c.command, err, ctx.Err())
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// cniError is the error of a plugin that failed as the specification has it.
func (o outcome) cniError(t testing.TB) types.Error {
	t.Helper()
	var e types.Error
	if err := json.Unmarshal([]byte(o.stdout), &e); err != nil || e.Code == 0 || o.exit == 0 {
		t.Fatalf("exit %d, stdout %q; want an error as JSON", o.exit, o.stdout)
	}
	return e
}

func (a *agent) conf(version, rest string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": "net", "type": "adit-cni", "socket": %q, "excludeNamespaces": ["kube-system"], "source": "10-x.conf"%s}`,
		version, a.socket, rest)
}

// A runtime calls the plugin as the last of a chain, in each version of the
// specification.
func TestChain(t *testing.T) {
	bin, cache := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"adit-cni", "first"} {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		t.Run(version, func(t *testing.T) {
			a := newAgent(t, yes)
			list, err := libcni.ConfListFromBytes([]byte(fmt.Sprintf(`{"cniVersion": %q, "name": "net", "plugins": [{"type": "first"}, %s]}`, version, a.conf(version, ""))))
			if err != nil {
				t.Fatal(err)
			}
			cni := libcni.NewCNIConfigWithCacheDir([]string{bin}, cache, nil)
			rt := &libcni.RuntimeConf{ContainerID: "c0ffee", NetNS: netns(t), IfName: "eth0", Args: [][2]string{
				{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "web-0"}, {"K8S_POD_UID", "0b9c7ab4-9c1d"},
			}}
			result, err := cni.AddNetworkList(t.Context(), list, rt)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := json.Marshal(result)
			if !strings.Contains(string(got), "10.244.1.7") || result.Version() != version {
				t.Errorf("the chain's result is %s; want what the first plugin gave", got)
			}
			if version != "0.2.0" && version != "0.3.1" {
				if err := cni.CheckNetworkList(t.Context(), list, rt); err != nil {
					t.Errorf("CHECK: %v", err)
				}
			}
			if version == "1.1.0" {
				if err := cni.GetStatusNetworkList(t.Context(), list); err != nil {
					t.Errorf("STATUS: %v", err)
				}
				if err := cni.GCNetworkList(t.Context(), list, nil); err != nil {
					t.Errorf("GC: %v", err)
				}
			}
			if err := cni.DelNetworkList(t.Context(), list, rt); err != nil {
				t.Errorf("DEL: %v", err)
			}
			requests := a.requests()
			r := requests[0]
			if r.Command != ask.Add || r.Namespace != "default" || r.Name != "web-0" || r.UID != "0b9c7ab4-9c1d" || r.ContainerID != "c0ffee" {
				t.Errorf("the agent was asked %+v", r)
			}
			if len(r.Addresses) != 1 || r.Addresses[0].String() != "10.244.1.7" {
				t.Errorf("the pod has addresses %v; want its own and not the bridge's", r.Addresses)
			}
			if r := requests[len(requests)-1]; r.Command != ask.Del {
				t.Errorf("the last request is %+v; want DEL", r)
			}
		})
	}
}

// What the plugin before gave is handed on, with what we do not know.
func TestResultIsPassedOn(t *testing.T) {
	a := newAgent(t, func(r ask.Request, netns *os.File) ask.Reply {
		if netns == nil {
			t.Error("no network namespace came")
		}
		return ask.Reply{OK: true}
	})
	for _, test := range []struct{ previous, want string }{
		{`{"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.7/24"}], "of the future": [9007199254740993]}`, ""},
		{`{"ips": [{"address": "10.244.1.7/24"}]}`, `{"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.7/24"}]}`},
	} {
		got := call{command: "ADD", netns: netns(t), args: podArgsText, stdin: a.conf("1.0.0", `, "prevResult": `+test.previous)}.run(t)
		if got.exit != 0 {
			t.Fatalf("exit %d: %s%s", got.exit, got.stdout, got.stderr)
		}
		want := test.want
		if want == "" {
			want = test.previous
		}
		if diff := cmp.Diff(decoded(t, want), decoded(t, got.stdout)); diff != "" {
			t.Errorf("result (-want +got):\n%s", diff)
		}
	}
}

func decoded(t *testing.T, text string) (v any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Fatalf("more than one value in %q", text)
	}
	return v
}

const previous = `, "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.244.1.7/24"}]}`

func TestRefusedPodDoesNotStart(t *testing.T) {
	a := newAgent(t, func(ask.Request, *os.File) ask.Reply { return ask.Reply{Error: "no certificate: the CA is away"} })
	for _, command := range []string{"ADD", "CHECK"} {
		e := call{command: command, netns: netns(t), args: podArgsText, stdin: a.conf("1.1.0", previous)}.run(t).cniError(t)
		if e.Code != types.ErrTryAgainLater || !strings.Contains(e.Msg, "no certificate: the CA is away") {
			t.Errorf("%s: %+v; want the agent's reason", command, e)
		}
	}
	if got := (call{command: "DEL", netns: netns(t), args: podArgsText, stdin: a.conf("1.1.0", previous)}).run(t); got.exit != 0 || got.stdout != "" {
		t.Errorf("DEL: %+v; want it to succeed", got)
	}
}

func TestWithoutAgent(t *testing.T) {
	t.Parallel() // it waits
	a := &agent{socket: filepath.Join(t.TempDir(), "s")}
	var calls sync.WaitGroup
	run := func(c call, check func(outcome)) { calls.Go(func() { check(c.run(t)) }) }
	run(call{command: "ADD", netns: netns(t), args: podArgsText, stdin: a.conf("1.1.0", previous)}, func(o outcome) {
		if e := o.cniError(t); e.Code != types.ErrTryAgainLater || !strings.Contains(e.Msg, "does not answer") || !strings.Contains(e.Details, a.socket) {
			t.Errorf("ADD: %+v; want what to look for", e)
		}
	})
	run(call{command: "STATUS", stdin: a.conf("1.1.0", "")}, func(o outcome) {
		if o.exit != 0 {
			t.Errorf("STATUS: %+v; an agent that is away must not take the node's pods out of service", o)
		}
	})
	run(call{command: "DEL", netns: "/run/netns/gone", args: podArgsText, stdin: a.conf("1.1.0", "")}, func(o outcome) {
		if o.exit != 0 || !strings.Contains(o.stderr, "away") {
			t.Errorf("DEL: %+v; want it to succeed", o)
		}
	})
	// These need no agent.
	for name, c := range map[string]call{
		"an excluded namespace":          {command: "ADD", netns: netns(t), args: "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns", stdin: a.conf("1.1.0", previous)},
		"a container that is no pod":     {command: "ADD", netns: netns(t), stdin: a.conf("1.1.0", previous)},
		"CHECK of an excluded one":       {command: "CHECK", netns: netns(t), args: "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=coredns", stdin: a.conf("1.1.0", previous)},
		"GC":                             {command: "GC", stdin: a.conf("1.1.0", `, "cni.dev/valid-attachments": []`)},
		"VERSION":                        {command: "VERSION", stdin: `{"cniVersion": "1.1.0"}`},
		"DEL that makes no sense":        {command: "DEL", args: "=;=", stdin: "nonsense"},
		"DEL of a version of the future": {command: "DEL", stdin: `{"cniVersion": "9.0.0", "name": "net", "type": "adit-cni"}`},
	} {
		run(c, func(o outcome) {
			if o.exit != 0 {
				t.Errorf("%s: %+v", name, o)
			}
			if c.command == "ADD" && !strings.Contains(o.stdout, "10.244.1.7") {
				t.Errorf("%s: the result is %q", name, o.stdout)
			}
		})
	}
	calls.Wait()
}

// An agent that restarts while a pod waits is asked again.
func TestAgentComesLater(t *testing.T) {
	a := &agent{TB: t, socket: filepath.Join(t.TempDir(), "s"), answer: yes}
	c := call{command: "ADD", netns: netns(t), args: podArgsText, stdin: a.conf("1.1.0", previous)}
	done := make(chan outcome, 1)
	go func() { done <- c.run(t) }()
	time.Sleep(300 * time.Millisecond) // the plugin has most likely begun; if not, the test shows less
	a.listen()
	if got := <-done; got.exit != 0 {
		t.Errorf("%+v", got)
	}
}

func TestMisuse(t *testing.T) {
	a := newAgent(t, yes)
	for _, test := range []struct {
		name string
		call call
		code uint
		want string
	}{
		{"not chained", call{command: "ADD", netns: netns(t), args: podArgsText, stdin: a.conf("1.1.0", "")}, types.ErrInvalidNetworkConfig, "no prevResult"},
		{"a result that is none", call{command: "ADD", netns: netns(t), args: podArgsText, stdin: a.conf("1.1.0", `, "prevResult": {"cniVersion": "1.1.0", "ips": 7}`)},
			types.ErrDecodingFailure, "prevResult cannot be read"},
		{"a result of another version", call{command: "ADD", netns: netns(t), args: podArgsText, stdin: a.conf("1.1.0", `, "prevResult": {"cniVersion": "7.0.0"}`)},
			types.ErrDecodingFailure, "prevResult cannot be read"},
		{"no such namespace", call{command: "ADD", netns: "/run/netns/gone", args: podArgsText, stdin: a.conf("1.1.0", previous)}, types.ErrInvalidNetNS, "cannot be opened"},
		{"arguments that make no sense", call{command: "ADD", netns: netns(t), args: "K8S_POD_NAME", stdin: a.conf("1.1.0", previous)},
			types.ErrInvalidEnvironmentVariables, "CNI_ARGS cannot be read"},
		{"configuration that makes no sense", call{command: "ADD", netns: netns(t), args: podArgsText, stdin: `{"cniVersion": "1.1.0", "name": "net", "socket": 7}`},
			types.ErrDecodingFailure, "cannot be read"},
	} {
		if e := test.call.run(t).cniError(t); e.Code != test.code || !strings.Contains(e.Msg, test.want) {
			t.Errorf("%s: %+v; want code %d and %q", test.name, e, test.code, test.want)
		}
	}
	if len(a.requests()) != 0 {
		t.Errorf("the agent was asked %+v", a.requests())
	}
}
