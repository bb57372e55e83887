package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/agent/mesh"
)

// streamer is an API server that streams its lists (KEP-3157), as those with a
// recent etcd do, and has one pod. It refuses lists.
type streamer struct {
	pod     string
	lists   atomic.Int32
	streams atomic.Int32
}

func (s *streamer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	partial := [2]string{"meta.k8s.io/v1", "PartialObjectMetadata"}
	kinds := map[string][2]string{
		"/api/v1/pods": {"v1", "Pod"}, "/api/v1/services": {"v1", "Service"}, "/api/v1/namespaces": partial, "/api/v1/nodes": partial,
		"/apis/discovery.k8s.io/v1/endpointslices": {"discovery.k8s.io/v1", "EndpointSlice"},
		"/apis/node.k8s.io/v1/runtimeclasses":      {"node.k8s.io/v1", "RuntimeClass"},
	}
	kind, ok := kinds[r.URL.Path]
	q := r.URL.Query()
	switch {
	case r.URL.Path == "/apis":
		fmt.Fprint(w, `{"kind":"APIGroupList","groups":[{"name":"discovery.k8s.io","versions":[{"version":"v1"}]}]}`)
		return
	case !ok:
		http.NotFound(w, r)
		return
	case q.Get("watch") == "":
		s.lists.Add(1)
		http.Error(w, "no lists here", http.StatusTeapot)
		return
	}
	event := func(kind, object string) { fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", kind, object) }
	if q.Get("sendInitialEvents") == "true" {
		s.streams.Add(1)
		if kind[1] == "Pod" {
			event("ADDED", s.pod)
		}
		event("BOOKMARK", fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}`, kind[0], kind[1]))
	}
	w.(http.Flusher).Flush()
	<-r.Context().Done()
}

func TestListsAreStreamed(t *testing.T) {
	var pod map[string]any
	raw, err := json.Marshal(aPod("shop", "web", "node-2", "10.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	pod["apiVersion"], pod["kind"] = "v1", "Pod"
	if raw, err = json.Marshal(pod); err != nil {
		t.Fatal(err)
	}
	s := &streamer{pod: string(raw)}
	srv := httptest.NewServer(s)
	defer srv.Close()
	src, err := New(Config{REST: &rest.Config{Host: srv.URL, QPS: -1}, NodeName: here, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	store := mesh.NewStore()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = src.Run(ctx, store)
	}()
	select {
	case <-src.Synced():
	case <-time.After(30 * time.Second):
		t.Fatalf("not synced: %+v", src.Kinds())
	}
	if m := store.Workload(netip.MustParseAddr("10.0.0.1")); m == nil || m.Name != "web" {
		t.Errorf("at the pod's address is %v", m)
	}
	if s.lists.Load() != 0 || s.streams.Load() != 6 {
		t.Errorf("%d lists and %d streams, want 0 and 6", s.lists.Load(), s.streams.Load())
	}
	for _, k := range src.Kinds() {
		if strings.Contains(k.Name, "security") == k.Present {
			t.Errorf("%+v", k)
		}
	}
	cancel()
	<-done
	src.api.http.CloseIdleConnections()
}
