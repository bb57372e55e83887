package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestCAUsage(t *testing.T) {
	for args, text := range map[string]string{
		"--ttl 0":                       "--ttl",
		"--trust-domain Not/One":        "--trust-domain",
		"--agent adit-agent":            "NAMESPACE/NAME",
		"--root-ttl 24h":                "root ttl",
		"--log-level loud":              "--log-level",
		"--log-format xml":              "--log-format",
		"extra":                         "takes no argument",
		"--no-such-flag":                "unknown flag",
		"rotate extra":                  "takes no argument",
		"--max-ttl 720h --root-ttl 24h": "root ttl",
	} {
		cmd := newRootCmd()
		cmd.SetArgs(append([]string{"ca"}, strings.Fields(args)...))
		cmd.SetErr(io.Discard)
		err := cmd.ExecuteContext(t.Context())
		if usage := new(usageError); !errors.As(err, &usage) || !strings.Contains(err.Error(), text) {
			t.Errorf("ca %s: %v; want a usage error about %q", args, err, text)
		}
	}
}

func TestCANames(t *testing.T) {
	f := &caFlags{service: "adit-ca", namespace: "adit-system", clusterDomain: "cluster.local", serverNames: []string{"ca.example"}}
	f.complete()
	for _, name := range []string{"adit-ca.adit-system.svc", "adit-ca.adit-system.svc.cluster.local", "adit-ca.adit-system", "adit-ca", "ca.example"} {
		if !slices.Contains(f.names(), name) {
			t.Errorf("the certificate is not good for %s: %v", name, f.names())
		}
	}
	if !slices.Equal(f.agents, []string{"adit-system/adit-agent"}) {
		t.Errorf("agents %v", f.agents)
	}
}

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestCAWithoutAnAPIServer comes up, says what is missing, and stops.
func TestCAWithoutAnAPIServer(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`), 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	cmd := newRootCmd()
	cmd.SetArgs([]string{"ca", "--kubeconfig", kubeconfig, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"})
	cmd.SetErr(log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()

	address := regexp.MustCompile(`http=(127\.0\.0\.1:\d+)`)
	deadline := time.Now().Add(20 * time.Second)
	var base string
	for base == "" {
		if m := address.FindStringSubmatch(log.String()); m != nil {
			base = "http://" + m[1]
		} else if time.Now().After(deadline) {
			t.Fatalf("it does not start:\n%s", log)
		} else {
			time.Sleep(5 * time.Millisecond)
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"/healthz": 503, "/healthz/ready": 503, "/healthz/live": 200, "/metrics": 200} {
		resp, err := client.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	for !strings.Contains(log.String(), "read the roots from Secret adit-system/adit-ca") {
		if time.Now().After(deadline) {
			t.Fatalf("the log does not say what is missing:\n%s", log)
		}
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped as asked: %v", err)
	}
}
