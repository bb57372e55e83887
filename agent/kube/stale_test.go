package kube

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/agent/mesh"
)

// Label removed, node rebooted or adit reinstalled: the annotation is still
// there, nobody captures the pod, and peers tunnel to it for ever.
func TestStaleAnnotation(t *testing.T) {
	src, err := New(Config{REST: &rest.Config{Host: "http://127.0.0.1:1"}, NodeName: here})
	if err != nil {
		t.Fatal(err)
	}
	src.store = mesh.NewStore()
	src.world.change(func() {
		src.world.setNamespace("plain", newNamespace(&aNamespace("plain", "").ObjectMeta))
		p := aPod("plain", "web", here, "10.0.0.1", enabled)
		src.world.observePod(keyOf(&p.ObjectMeta), string(p.UID), newPod(p, true))
	})
	src.flush()
	src.flush()
	w := src.store.WorkloadByUID("Kubernetes//Pod/plain/web")
	if w.Protocol == mesh.HBONE || len(src.annotator.list()) == 0 {
		t.Errorf("dialled by %v; %d annotations to be corrected", w.Protocol, len(src.annotator.list()))
	}
}

// One pod whose annotation a webhook refuses.
func TestPoisonedAnnotation(t *testing.T) {
	var mu sync.Mutex
	written := map[string]bool{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(r.URL.Path, "poison") {
			w.WriteHeader(403)
			fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403,"message":"admission webhook denied the request"}`)
			return
		}
		mu.Lock()
		written[r.URL.Path] = true
		mu.Unlock()
		fmt.Fprint(w, `{"kind":"Pod","apiVersion":"v1"}`)
	}))
	defer srv.Close()
	a, err := newAPI(&rest.Config{Host: srv.URL, QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	an := newAnnotator(a, slog.New(slog.DiscardHandler))
	for i := range 5 {
		an.put(annotationWrite{key{"x", fmt.Sprint("poison-", i)}, fmt.Sprint("p", i), "enabled"})
	}
	for i := range 50 {
		an.put(annotationWrite{key{"x", fmt.Sprint("web-", i)}, fmt.Sprint("u", i), "enabled"})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	an.run(ctx)
	mu.Lock()
	defer mu.Unlock()
	if len(written) != 50 {
		t.Errorf("after 4 s %d of 50 pods that nothing is wrong with are annotated", len(written))
	}
}

// An API server that starts does not name custom kinds yet, and answers 503 for
// them.
func TestDiscoveryOfAStartingServer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/apis" {
			fmt.Fprint(w, `{"kind":"APIGroupList","groups":[{"name":"discovery.k8s.io","versions":[{"version":"v1"}]}]}`)
			return
		}
		w.WriteHeader(503)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"ServiceUnavailable","code":503}`)
	}))
	defer srv.Close()
	a, err := newAPI(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if there, err := a.has(ctx, authorizationPolicies); err == nil {
		t.Errorf("AuthorizationPolicy is there: %t, and that is taken for certain", there)
	}
}
