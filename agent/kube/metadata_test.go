package kube

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// recorder keeps what the API server sends about nodes.
type recorder struct {
	http.RoundTripper
	mu   sync.Mutex // guards sent
	sent bytes.Buffer
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := r.RoundTripper.RoundTrip(req)
	if err == nil && req.URL.Path == "/api/v1/nodes" {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(resp.Body, r), resp.Body}
	}
	return resp, err
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent.Write(b)
}

func (r *recorder) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.sent.Reset()
	return r.sent.String()
}

// A node's labels are followed; its images, which come with every heartbeat,
// are not sent.
func TestOnlyTheMetadataOfNodesIsSent(t *testing.T) {
	s := server(t)
	node := func(zone string) string {
		var images strings.Builder
		for i := range 50 {
			fmt.Fprintf(&images, "\n  - {names: ['registry.example.com/library/application-%d@sha256:%064d', 'registry.example.com/library/application-%d:v1.%d'], sizeBytes: 123456789}", i, i, i, i)
		}
		return "apiVersion: v1\nkind: Node\nmetadata: {name: node-heavy, labels: {topology.kubernetes.io/zone: " + zone + "}}\nstatus:\n  images:" + images.String()
	}
	s.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: heavy}\n---\n"+node("z1")+"\n---\n"+podYAML("heavy", "web", "node-heavy", "10.8.0.1"))
	var rec *recorder
	r := run(t, s, func(c *Config) {
		c.REST.WrapTransport = func(rt http.RoundTripper) http.RoundTripper {
			rec = &recorder{RoundTripper: rt}
			return rec
		}
	})
	zone := func(want string) {
		t.Helper()
		eventually(t, "the pod is in zone "+want, func() bool { m := r.at("10.8.0.1"); return m != nil && m.Locality.Zone == want })
	}
	zone("z1")
	if sent := rec.take(); !strings.Contains(sent, "node-heavy") || strings.Contains(sent, "registry.example.com") {
		t.Errorf("a list of nodes with their images, or without the node: %d bytes", len(sent))
	}
	s.apply(t, node("z2"))
	zone("z2")
	sent := rec.take()
	if !strings.Contains(sent, "node-heavy") || strings.Contains(sent, "registry.example.com") {
		t.Errorf("an event of a node with its images, or none: %d bytes", len(sent))
	}
	t.Logf("%d bytes are sent of a change of a node and of its status", len(sent))
}
