package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

func TestMain(m *testing.M) {
	code := labtest.Main(m)
	if code == 0 {
		err := goleak.Find(goleak.IgnoreTopFunction("github.com/adit-mesh/adit/e2e/lab/labtest.Main.func1"))
		if err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// running is an agent in this process.
type running struct {
	agent  *Agent
	t      *testing.T
	cfg    Config
	log    *syncBuffer
	access *syncBuffer
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// start runs an agent until the test ends or stop is called, and waits until
// it is ready.
func start(t *testing.T, cfg Config) *running {
	t.Helper()
	return startUntil(t, cfg, "/healthz/ready", func(*Agent) {})
}

// startUnready is start with a hand on the agent before it runs, and without
// the wait for what would make it ready.
func startUnready(t *testing.T, cfg Config, prepare func(*Agent)) *running {
	t.Helper()
	return startUntil(t, cfg, "/healthz/live", prepare)
}

func startUntil(t *testing.T, cfg Config, health string, prepare func(*Agent)) *running {
	t.Helper()
	r := &running{t: t, cfg: cfg, log: new(syncBuffer), access: new(syncBuffer), done: make(chan struct{})}
	level := new(slog.LevelVar)
	a, err := New(cfg, Options{
		Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: level})), Level: level,
		AccessLog: r.access, Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	prepare(a)
	r.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		defer close(r.done)
		r.err = a.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	eventually(t, "the agent answers "+health, func() bool {
		select {
		case <-r.done:
			t.Fatalf("the agent ended: %v\n%s", r.err, r.log)
		default:
		}
		status, _ := r.get(cfg.Readiness, health)
		return status == http.StatusOK
	}, func() string { return r.log.String() })
	return r
}

func (r *running) stop() error {
	r.t.Helper()
	r.cancel()
	select {
	case <-r.done:
	case <-time.After(20 * time.Second):
		r.t.Fatalf("the agent has not stopped after 20 s\n%s", r.log)
	}
	return r.err
}

func (r *running) get(addr, path string) (status int, body string) {
	return r.do(http.MethodGet, addr, path, nil)
}

func (r *running) do(method, addr, path string, header http.Header) (status int, body string) {
	req, err := http.NewRequest(method, "http://"+addr+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func eventually(t *testing.T, why string, ok func() bool, detail func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s: %s", why, detail())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

var addrs atomic.Uint32

// freeAddr is an address for a listener to come. Each has a loopback address of
// its own, so that neither another one nor an outgoing connection takes its port.
func freeAddr(t *testing.T) string {
	t.Helper()
	n := addrs.Add(1)
	l, err := net.Listen("tcp", fmt.Sprintf("127.1.%d.%d:0", byte(n>>8), byte(n)))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func testConfig(t *testing.T) Config {
	cfg := DefaultConfig()
	cfg.Admin, cfg.Metrics, cfg.Readiness = freeAddr(t), freeAddr(t), freeAddr(t)
	cfg.DrainTimeout = 5 * time.Second
	return cfg
}

const (
	clientID  = "spiffe://cluster.local/ns/default/sa/client"
	gatewayID = "spiffe://cluster.local/ns/default/sa/gateway"
)

// echoServer answers with what it got.
func echoServer(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// pair is two agents that share a CA directory, one encapsulating toward the
// other.
func pair(t *testing.T) (source, dest *running, entrance string) {
	t.Helper()
	dir, upstream := t.TempDir(), echoServer(t)
	d := testConfig(t)
	d.CA.Directory = dir
	gateway := freeAddr(t)
	d.Terminate = []TerminateConfig{{Listen: gateway, Identity: gatewayID, Allow: []string{clientID}, Upstream: upstream}}
	s := testConfig(t)
	s.CA.Directory = dir
	entrance = freeAddr(t)
	s.Encapsulate = []EncapsulateConfig{{
		Listen: entrance, Peer: gateway, Authority: "host.com:443", Identity: clientID, Expect: []string{gatewayID},
		Headers: map[string]string{"original_dst_port": "%DOWNSTREAM_LOCAL_PORT%"},
	}}
	return start(t, s), start(t, d), entrance
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func roundTrip(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("echo of %q: %q, %v", text, got, err)
	}
}

// TestTwoAgents: two agents with a tunnel between them, what their operators
// see, and their end while a connection is open.
func TestTwoAgents(t *testing.T) {
	source, dest, entrance := pair(t)
	c := dial(t, entrance)
	roundTrip(t, c, "hello")

	var dump struct {
		Version      string
		Config       map[string]any
		Ready        bool
		Certificates []struct{ ID, Serial string }
		Connections  []struct{ Direction, Phase, SourceIdentity string }
		Tunnels      []struct{ Streams int }
	}
	dumpOf := func(r *running) {
		t.Helper()
		dump.Certificates, dump.Connections, dump.Tunnels = nil, nil, nil
		status, body := r.get(r.cfg.Admin, "/config_dump")
		if status != 200 {
			t.Fatalf("config_dump: %d %s", status, body)
		}
		if err := json.Unmarshal([]byte(body), &dump); err != nil {
			t.Fatalf("config_dump is not JSON: %v\n%s", err, body)
		}
		if strings.Contains(strings.ToUpper(body), "PRIVATE KEY") {
			t.Error("config_dump shows a key")
		}
	}
	dumpOf(source)
	if dump.Version != "test" || !dump.Ready || dump.Config["drainTimeout"] != "5s" ||
		len(dump.Certificates) != 1 || dump.Certificates[0].ID != clientID ||
		len(dump.Connections) != 1 || dump.Connections[0].Direction != "outbound" || dump.Connections[0].Phase != "open" ||
		len(dump.Tunnels) != 1 || dump.Tunnels[0].Streams != 1 {
		t.Errorf("config_dump of the source: %+v", dump)
	}
	old := dump.Certificates[0].Serial
	dumpOf(dest)
	if len(dump.Connections) != 1 || dump.Connections[0].Direction != "inbound" || dump.Connections[0].SourceIdentity != clientID {
		t.Errorf("config_dump of the destination: %+v", dump)
	}

	status, body := source.do(http.MethodPost, source.cfg.Admin, "/certificates/rotate?id="+clientID, nil)
	var rotated struct{ ID, Serial, NotAfter string }
	if err := json.Unmarshal([]byte(body), &rotated); err != nil || status != 200 || rotated.Serial == old || rotated.Serial == "" {
		t.Errorf("rotate: %d %s (serial was %s)", status, body, old)
	}
	roundTrip(t, c, "the connection outlives the rotation")

	if status, body := dest.get(dest.cfg.Metrics, "/metrics"); status != 200 ||
		!strings.Contains(body, "istio_tcp_connections_opened_total") || !strings.Contains(body, `adit_certificate_expiry_timestamp_seconds{identity="`+gatewayID) {
		t.Errorf("metrics: %d\n%.2000s", status, body)
	}

	// The destination stops: no new connections, not ready any more, and the
	// live one ends in its own time.
	stopped := make(chan error, 1)
	go func() { stopped <- dest.stop() }()
	eventually(t, "a stopping agent is not ready", func() bool {
		status, body := dest.get(dest.cfg.Readiness, "/healthz/ready")
		return status == 503 && strings.Contains(body, "stopping")
	}, func() string { return "" })
	roundTrip(t, c, "still here")
	c.Close()
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	if !strings.Contains(dest.access.String(), "direction=\"inbound\"") && !strings.Contains(dest.access.String(), "inbound") {
		t.Errorf("the last connection is not in the access log: %q", dest.access)
	}
	if err := source.stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// TestAdmin: what the operator's port answers, and whom.
func TestAdmin(t *testing.T) {
	cfg := testConfig(t)
	cfg.Terminate = []TerminateConfig{{Listen: freeAddr(t), Identity: gatewayID}}
	r := start(t, cfg)
	for _, tt := range []struct {
		method, path string
		header       http.Header
		status       int
		want         string
	}{
		{"GET", "/", nil, 200, "config_dump"},
		{"GET", "/nothing", nil, 404, ""},
		{"GET", "/connections", nil, 200, "[]"},
		{"GET", "/logging", nil, 200, "INFO"},
		{"POST", "/logging?level=debug", nil, 200, "DEBUG"},
		{"POST", "/logging?level=loud", nil, 400, `"loud" is not one of debug, info, warn, error`},
		{"GET", "/certificates/rotate?id=" + gatewayID, nil, 405, ""},
		{"POST", "/certificates/rotate?id=" + clientID, nil, 404, "no local pod uses"},
		{"POST", "/certificates/rotate?id=bob", nil, 400, "not a SPIFFE ID"},
		{"GET", "/quitquitquit", nil, 405, ""},
		{"GET", "/debug/pprof/goroutine?debug=1", nil, 200, "goroutine profile"},
		{"GET", "/config_dump", http.Header{"Host": {"evil.example"}}, 403, ""},
		{"POST", "/quitquitquit", http.Header{"Origin": {"https://evil.example"}}, 403, ""},
		{"POST", "/quitquitquit", http.Header{"Host": {"evil.example:15000"}}, 403, ""},
	} {
		status, body := r.do(tt.method, cfg.Admin, tt.path, tt.header)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s %v: %d %.300s, want %d and %q", tt.method, tt.path, tt.header, status, body, tt.status, tt.want)
		}
	}
	if status, _ := r.get(cfg.Readiness, "/healthz/live"); status != 200 {
		t.Errorf("live: %d", status)
	}
	if status, body := r.do("POST", cfg.Admin, "/quitquitquit", nil); status != 200 {
		t.Errorf("quitquitquit: %d %s", status, body)
	}
	<-r.done
	if r.err != nil {
		t.Errorf("quit: %v", r.err)
	}
}

// TestStartErrors: each reason not to start is one message, of the right kind.
func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		config bool
		is     error
		want   string
	}{
		{"admin port taken", func(c *Config) { c.Admin = taken.Addr().String() }, false, syscall.EADDRINUSE, "admin port"},
		{"role's port taken", func(c *Config) { c.Terminate[0].Listen = taken.Addr().String() }, false, syscall.EADDRINUSE, "terminate[0]"},
		{"access log", func(c *Config) { c.AccessLog.File = filepath.Join(blocked, "x") }, true, nil, "accessLog.file"},
		{"CA directory", func(c *Config) { c.CA.Directory = blocked }, true, nil, "ca.directory"},
		{"mesh file", func(c *Config) { c.World.File = filepath.Join(dir, "absent.yaml") }, true, os.ErrNotExist, "world.file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "mesh file" && os.Geteuid() != 0 {
				if os.Getenv("CI") == "true" {
					t.Fatal("capture needs root, and CI has to have it")
				}
				t.Skip("capture needs root")
			}
			cfg := testConfig(t)
			cfg.Terminate = []TerminateConfig{{Listen: freeAddr(t), Identity: gatewayID}}
			tt.change(&cfg)
			if err := Check(cfg, slog.New(slog.DiscardHandler)); (err != nil) != (tt.name == "mesh file") {
				t.Errorf("check: %v", err)
			}
			a, err := New(cfg, Options{AccessLog: io.Discard})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			err = a.Run(ctx)
			switch {
			case err == nil:
				t.Fatal("it ran")
			case IsConfigError(err) != tt.config:
				t.Errorf("%v: configuration error %t, want %t", err, !tt.config, tt.config)
			case tt.is != nil && !errors.Is(err, tt.is):
				t.Errorf("%v is not %v", err, tt.is)
			case !strings.Contains(err.Error(), tt.want):
				t.Errorf("%v does not say %q", err, tt.want)
			}
		})
	}
}

func TestCgroupMemory(t *testing.T) {
	dir := t.TempDir()
	self := filepath.Join(dir, "cgroup")
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(self, "0::/kube/pod\n")
	if n, ok := cgroupMemory(self, dir); ok {
		t.Errorf("no limit anywhere: %d", n)
	}
	write(filepath.Join(dir, "kube/pod/memory.max"), "max\n")
	write(filepath.Join(dir, "kube/memory.max"), fmt.Sprintln(512<<20))
	if n, ok := cgroupMemory(self, dir); !ok || n != 512<<20 {
		t.Errorf("limit of a cgroup around ours: %d, %t", n, ok)
	}
	write(filepath.Join(dir, "kube/pod/memory.max"), fmt.Sprintln(128<<20))
	if n, ok := cgroupMemory(self, dir); !ok || n != 128<<20 {
		t.Errorf("the smaller limit: %d, %t", n, ok)
	}
}
