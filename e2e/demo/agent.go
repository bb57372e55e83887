package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

const (
	adminURL   = "http://127.0.0.1:15000"
	metricsURL = "http://127.0.0.1:15020/metrics"
	readyURL   = "http://127.0.0.1:15021/healthz/ready"
)

// agent is one node's agent: a process in the node's namespace, and the ports
// that it answers on there.
type agent struct {
	binary, dir string
	node        *node
	http        *http.Client
	process     *lab.Process
}

func newAgent(binary, dir string, n *node) *agent {
	return &agent{binary: binary, dir: dir, node: n, http: httpFrom(n.ns)}
}

// start runs the agent and returns, once it is ready, how long that took.
func (a *agent) start(ctx context.Context, sameNode string) (time.Duration, error) {
	config := agentConfigPath(a.dir, a.node)
	if err := os.WriteFile(config, []byte(agentFile(a.dir, a.node, sameNode)), 0o644); err != nil {
		return 0, err
	}
	log, err := os.OpenFile(agentLogPath(a.dir, a.node), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(a.binary, "agent", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Not even a PATH: the agent starts no program.
	cmd.Env = []string{}
	began := time.Now()
	if a.process, err = a.node.ns.Start(cmd); err != nil {
		return 0, err
	}
	err = poll(ctx, 10*time.Second, func() error {
		select {
		case <-a.process.Done():
			return permanent{fmt.Errorf("agent on %s ended while starting: %w", a.node.name, a.process.Wait())}
		default:
		}
		if _, err := a.get(ctx, http.MethodGet, readyURL); err != nil {
			return fmt.Errorf("agent on %s is not ready: %w", a.node.name, err)
		}
		return nil
	})
	return time.Since(began), err
}

// stop asks the agent to drain and waits for it.
func (a *agent) stop() error {
	if err := a.process.Stop(5 * time.Second); err != nil {
		return fmt.Errorf("agent on %s: %w", a.node.name, err)
	}
	return nil
}

// get returns the body of a 200.
func (a *agent) get(ctx context.Context, method, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := a.http.Do(req)
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

// rotate makes the agent fetch a new certificate for id now.
func (a *agent) rotate(ctx context.Context, id string) error {
	_, err := a.get(ctx, http.MethodPost, adminURL+"/certificates/rotate?id="+neturl.QueryEscape(id))
	return err
}

// serial is that of the certificate in use for id.
func (a *agent) serial(ctx context.Context, id string) (string, error) {
	body, err := a.get(ctx, http.MethodGet, adminURL+"/config_dump")
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
		return "", fmt.Errorf("config dump of %s: %w", a.node.name, err)
	}
	for _, c := range dump.Certificates {
		if c.ID == id && c.Serial != "" {
			return c.Serial, nil
		}
	}
	return "", fmt.Errorf("config dump of %s lists no certificate for %s", a.node.name, id)
}

// metric finds a series with all the given labels and returns it with its
// line. Absent is zero and no error.
func (a *agent) metric(ctx context.Context, name string, labels map[string]string) (float64, string, error) {
	body, err := a.get(ctx, http.MethodGet, metricsURL)
	if err != nil {
		return 0, "", err
	}
	value, line := findSeries(string(body), name, labels)
	return value, line, nil
}

// logOffset marks the present end of the access log, to look only at what
// follows.
func (a *agent) logOffset() int64 {
	info, err := os.Stat(accessLogPath(a.dir, a.node))
	if err != nil {
		return 0
	}
	return info.Size()
}

// logged waits for an access-log line after offset that match accepts.
func (a *agent) logged(ctx context.Context, offset int64, match func(entry) bool) (entry, error) {
	path := accessLogPath(a.dir, a.node)
	var found entry
	err := poll(ctx, 3*time.Second, func() error {
		entries, err := readAccessLog(path, offset)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if match(e) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("%s: no such line among %d", filepath.Base(path), len(entries))
	})
	return found, err
}
