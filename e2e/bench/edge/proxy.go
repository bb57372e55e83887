package edge

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/proc"
)

// Paths: what stands between client and backend.
const (
	pathOurs    = "adit"
	pathCaddy   = "caddy"
	pathNginx   = "nginx"
	pathHAProxy = "haproxy"
	pathDirect  = "direct" // nothing, for orientation: what client and backend can do
)

var (
	allPaths = []string{pathOurs, pathCaddy, pathNginx, pathHAProxy, pathDirect}
	rivals   = []string{pathCaddy, pathNginx, pathHAProxy}
)

// programs are the names of rivals' programs.
var programs = map[string]string{pathCaddy: "caddy", pathNginx: "nginx", pathHAProxy: "haproxy"}

// A place is where a proxy serves, and what it serves.
type place struct {
	dir                string // of its own
	certs              string // the directory of tls.crt, tls.key and both.pem
	http, https, admin string
	backend            string
	prefixes           []string // of paths that go to the backend
}

// A proxy is one of what is compared, running.
type proxy struct {
	place
	name string
	prog *proc.Program // nil for pathDirect
	pids []int         // of its processes, once known
}

func (p *proxy) addr(proto string) string {
	if proto == protoH1 {
		return p.http
	}
	return p.https
}

func (p *proxy) close() {
	if p.prog != nil {
		p.prog.Stop()
	}
	if p.dir != "" {
		os.RemoveAll(p.dir)
	}
}

// cpu is the processor time that it has used.
func (p *proxy) cpu() time.Duration {
	if p.prog == nil {
		return 0
	}
	return proc.ThreadCPU(p.members())
}

// members are its processes. All proxies here start them before they serve, except while they reload.
func (p *proxy) members() []int {
	if p.pids == nil {
		p.pids = proc.GroupMembers(p.prog.PID())
	}
	return p.pids
}

func (p *proxy) rss() int64 {
	if p.prog == nil {
		return 0
	}
	_, resident := proc.GroupUsage(p.prog.PID())
	return resident
}

// open starts a proxy for what goes to the backend under prefixes, and waits until it serves. close must be called.
func (f *fleet) open(ctx context.Context, name string, prefixes ...string) (*proxy, error) {
	if name == pathDirect {
		return &proxy{name: name, place: place{http: f.backends[0]}}, nil
	}
	dir, err := os.MkdirTemp(f.dir, name+"-")
	if err != nil {
		return nil, err
	}
	addrs, err := f.ports(ctx, 3)
	if err != nil {
		return nil, err
	}
	at := place{dir: dir, certs: f.dir, http: addrs[0], https: addrs[1], admin: addrs[2], backend: f.backends[0], prefixes: prefixes}
	p := &proxy{name: name, place: at}
	if err := p.start(f); err != nil {
		p.close()
		return nil, err
	}
	for _, proto := range p.protocols() {
		if err := p.await(ctx, f, proto); err != nil {
			p.close()
			return nil, fmt.Errorf("%s: %w%s", name, err, p.prog.Output)
		}
	}
	return p, nil
}

func (p *proxy) start(f *fleet) (err error) {
	config := p.configFile()
	if err := os.MkdirAll(filepath.Dir(config), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(config, []byte(p.config()), 0o644); err != nil {
		return err
	}
	args := p.command(f.cfg.Adit, config)
	if _, err := exec.LookPath(args[0]); err != nil {
		return fmt.Errorf("%s is not installed (make setup-bench-ingress): %w", p.name, err)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "HOME="+p.dir, "XDG_DATA_HOME="+p.dir, "XDG_CONFIG_HOME="+p.dir)
	p.prog, err = proc.StartProgram(f.nursery.On(cpuProxy), p.name, cmd)
	return err
}

func (p *proxy) await(ctx context.Context, f *fleet, proto string) error {
	// In short steps, for a program that ends at once should be known at once.
	var err error
	for begun := time.Now(); time.Since(begun) < 15*time.Second; {
		select {
		case <-p.prog.Exited:
			return errors.New("it ended before it served")
		default:
		}
		err = f.client.Call(ctx, "await", awaitOrder{Proto: proto, Addr: p.addr(proto), Path: p.prefixes[0], Patience: 500 * time.Millisecond}, nil)
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// protocols are those that it speaks.
func (p *proxy) protocols() []string { return protocolsOf(p.name) }

func protocolsOf(path string) []string {
	switch path {
	case pathDirect:
		return []string{protoH1}
	case pathOurs, pathCaddy:
		return []string{protoH1, protoH1S, protoH2, protoH3}
	}
	return []string{protoH1, protoH1S, protoH2}
}
