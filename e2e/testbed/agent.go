package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Where an agent answers, in its node's namespace.
const (
	AdminURL   = "http://127.0.0.1:15000"
	MetricsURL = "http://127.0.0.1:15020/metrics"
	ReadyURL   = "http://127.0.0.1:15021/healthz/ready"
)

// Agent is one node's agent: a process in the node's namespace.
type Agent struct {
	Binary string
	Files  Files
	Node   *Node

	process *lab.Process
}

// Start runs the agent and returns, once it is ready, how long that took.
func (a *Agent) Start(ctx context.Context, s Settings) (time.Duration, error) {
	config := a.Files.Config(a.Node)
	if err := os.WriteFile(config, []byte(a.Files.config(a.Node, s)), 0o644); err != nil {
		return 0, err
	}
	log, err := os.OpenFile(a.Files.Log(a.Node), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(a.Binary, "agent", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	// Its own process group: Ctrl-C is for whoever started us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Not even a PATH: the agent starts no program.
	cmd.Env = []string{}
	began := time.Now()
	if a.process, err = a.Node.NS.Start(cmd); err != nil {
		return 0, err
	}
	err = Poll(ctx, 15*time.Second, func() error {
		select {
		case <-a.process.Done():
			return Permanent{Err: fmt.Errorf("agent on %s ended while starting: %w", a.Node.Name, a.process.Wait())}
		default:
		}
		if _, err := a.Get(ctx, http.MethodGet, ReadyURL); err != nil {
			return fmt.Errorf("agent on %s is not ready: %w", a.Node.Name, err)
		}
		return nil
	})
	return time.Since(began), err
}

// PID is that of the running process.
func (a *Agent) PID() int { return a.process.Cmd.Process.Pid }

// Signal sends a signal to the process.
func (a *Agent) Signal(s os.Signal) error { return a.process.Signal(s) }

// Done is closed when the process has ended.
func (a *Agent) Done() <-chan struct{} { return a.process.Done() }

// Kill ends the agent as kill -9 does.
func (a *Agent) Kill() { a.process.Kill() }

// Stop asks the agent to drain, and waits for it longer than it drains.
func (a *Agent) Stop() error {
	if err := a.process.Stop(15 * time.Second); err != nil {
		return fmt.Errorf("agent on %s: %w", a.Node.Name, err)
	}
	return nil
}

// Get returns the body of a 200.
func (a *Agent) Get(ctx context.Context, method, url string) ([]byte, error) {
	return fetch(ctx, a.Node.NS, method, url)
}

// fetch returns the body of a 200 that is asked for inside ns.
func fetch(ctx context.Context, ns *lab.Namespace, method, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := HTTPFrom(ns).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s: %.200s", url, res.Status, body)
	}
	return body, nil
}

// Rotate makes the agent fetch a new certificate for id now.
func (a *Agent) Rotate(ctx context.Context, id string) error {
	_, err := a.Get(ctx, http.MethodPost, AdminURL+"/certificates/rotate?id="+neturl.QueryEscape(id))
	return err
}

// Serial is that of the certificate in use for id.
func (a *Agent) Serial(ctx context.Context, id string) (string, error) {
	body, err := a.Get(ctx, http.MethodGet, AdminURL+"/config_dump")
	if err != nil {
		return "", err
	}
	var dump struct {
		Certificates []struct {
			ID     string `json:"id"`
			Serial string `json:"serial"`
		} `json:"certificates"`
	}
	if err := json.Unmarshal(body, &dump); err != nil {
		return "", fmt.Errorf("config dump of %s: %w", a.Node.Name, err)
	}
	for _, c := range dump.Certificates {
		if c.ID == id && c.Serial != "" {
			return c.Serial, nil
		}
	}
	return "", fmt.Errorf("config dump of %s lists no certificate for %s", a.Node.Name, id)
}

// Metric is the value of the first series that has all the given labels, 0 if
// there is none.
func (a *Agent) Metric(ctx context.Context, name string, labels map[string]string) (float64, error) {
	body, err := a.Get(ctx, http.MethodGet, MetricsURL)
	if err != nil {
		return 0, err
	}
	value, _ := findSeries(string(body), name, labels)
	return value, nil
}

// LogOffset marks the present end of the access log, to look only at what
// follows.
func (a *Agent) LogOffset() int64 { return size(a.Files.AccessLog(a.Node)) }

// Logged waits for an access-log line after offset that match accepts.
func (a *Agent) Logged(ctx context.Context, offset int64, match func(Entry) bool) (Entry, error) {
	return awaitEntry(ctx, a.Files.AccessLog(a.Node), offset, match)
}
