package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// endless is the application of a pod that answers without end, and tells when
// somebody stops reading.
type endless struct {
	http.Handler
	gone chan string // the path of each answer that was given up
	here chan string // the path of each upload that has begun
}

func newEndless(pod string) *endless {
	e := &endless{gone: make(chan string, 64), here: make(chan string, 64)}
	mux := http.NewServeMux()
	mux.Handle("/", testbed.Echo(pod))
	mux.HandleFunc("/endless/", func(w http.ResponseWriter, r *http.Request) {
		block := make([]byte, 64<<10)
		for {
			if _, err := w.Write(block); err != nil {
				break
			}
		}
		e.gone <- r.URL.Path
	})
	mux.HandleFunc("/swallow/", func(w http.ResponseWriter, r *http.Request) {
		e.here <- r.URL.Path
		_, err := io.Copy(io.Discard, r.Body)
		e.gone <- fmt.Sprintf("%s %v", r.URL.Path, err != nil)
	})
	e.Handler = mux
	return e
}

// meshed is a border whose pods are in the mesh, with the edge and an agent.
func meshed(t *testing.T, policies string, h http.Handler) *border {
	t.Helper()
	b := newBorder(t)
	b.simple(t)
	b.world(t, policies, b.Web, b.Next)
	app(t, b.Web, h)
	b.runAgent(t)
	b.run(t)
	return b
}

// Answers that nobody reads fill every buffer between here and the pod. Small
// requests to the same pod, in the same tunnel, must not wait for them.
func TestSlowStreamsDoNotStallOthersOnTheTunnel(t *testing.T) {
	b := meshed(t, testbed.OnlyEdge, newEndless("web"))
	const slow = 12
	for i, v := range append(edgeclient.Versions, edgeclient.Versions...) {
		c := b.client(t, v) // one connection for its slow answers
		for j := range slow / 6 {
			res, err := c.Client.Get(fmt.Sprintf("https://www.example.com/endless/%d-%d", i, j))
			if err != nil {
				t.Fatal(v, err)
			}
			t.Cleanup(func() { _ = res.Body.Close() })
			if _, err := io.CopyN(io.Discard, res.Body, 1<<20); err != nil {
				t.Fatal(v, err)
			}
		}
	}
	for _, v := range edgeclient.Versions {
		c := b.client(t, v)
		for i := range 30 {
			if _, _, err := seen(t.Context(), c, "https://www.example.com/small"); err != nil {
				t.Fatalf("small request %d beside %d answers that nobody reads: %v", i, slow, err)
			}
		}
		if _, err := c.Send(t.Context(), http.MethodPost, "https://www.example.com/upload", bytes.NewReader(make([]byte, 4<<20))); err != nil {
			t.Errorf("an upload by %s beside them: %v", v, err)
		}
	}
}

// A client that goes away ends its request at the far end, and no other.
func TestAbortedClientEndsItsRequestAtThePod(t *testing.T) {
	app := newEndless("web")
	b := meshed(t, testbed.OnlyEdge, app)
	for _, v := range edgeclient.Versions {
		c := b.client(t, v)
		ctx, abort := context.WithCancel(t.Context())
		defer abort()
		read := func(ctx context.Context, path string) *http.Response {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://www.example.com"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(v, err)
			}
			if _, err := io.CopyN(io.Discard, res.Body, 1000); err != nil {
				t.Fatal(v, err)
			}
			return res
		}
		going := "/endless/" + string(v) + "/going"
		defer read(ctx, going).Body.Close()
		stays := read(t.Context(), "/endless/"+string(v)+"/stays")
		abort()
		select {
		case got := <-app.gone:
			if got != going {
				t.Errorf("%s: %s ended, and not %s", v, got, going)
			}
		case <-time.After(patience):
			t.Errorf("%s: the client is gone, and the pod still answers", v)
		}
		if _, err := io.CopyN(io.Discard, stays.Body, 1<<20); err != nil {
			t.Errorf("%s: another answer ends with it: %v", v, err)
		}
		_ = stays.Body.Close()
		<-app.gone

		// The same with a request that is cut off.
		pr, pw := io.Pipe()
		ctx, abort = context.WithCancel(t.Context())
		defer abort()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = c.Send(ctx, http.MethodPost, "https://www.example.com/swallow/"+string(v), pr)
		}()
		if _, err := pw.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		// What a reset overtakes never arrives, the request's header included.
		select {
		case <-app.here:
		case <-time.After(patience):
			t.Fatalf("%s: the upload has not reached the pod", v)
		}
		abort()
		_ = pw.CloseWithError(context.Canceled)
		<-sent
		select {
		case got := <-app.gone:
			if got != "/swallow/"+string(v)+" true" {
				t.Errorf("%s: an upload that is cut off looks whole to the pod: %s", v, got)
			}
		case <-time.After(patience):
			t.Errorf("%s: the client is gone, and the pod still waits for the rest of its upload", v)
		}
	}
}

// Who the edge is decides what it may reach.
func TestPolicyOfThePodKnowsTheEdge(t *testing.T) {
	b := newBorder(t)
	b.simple(t)
	b.world(t, testbed.OnlyEdge, b.Web, b.Next)
	app(t, b.Web, testbed.Echo("web"))
	b.runAgent(t)
	b.run(t)
	for _, v := range edgeclient.Versions {
		if _, _, err := seen(t.Context(), b.client(t, v), "https://www.example.com/"); err != nil {
			t.Errorf("the edge's own identity: %v", err)
		}
	}
	stopEdge(t, b)

	const other = "spiffe://" + testbed.TrustDomain + "/ns/adit-system/sa/somebody-else"
	b.run(t, "--identity", other)
	mark, there := b.edge.LogOffset(), b.agent.LogOffset()
	for _, v := range edgeclient.Versions {
		a, err := b.client(t, v).Get(t.Context(), "https://www.example.com/")
		if err != nil || a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s with another identity: %v, %v; want 503", v, a.Response, err)
		}
	}
	line, err := b.edge.Logged(t.Context(), mark, func(e testbed.Entry) bool { return e.Get("response_code") == "503" })
	if err != nil {
		t.Fatal(err)
	}
	if flag, why := line.Get("response_flags"), line.Get("response_code_details"); !strings.HasPrefix(flag, "U") || !strings.Contains(why, "401") && !strings.Contains(why, "refuse") {
		t.Errorf("the edge logs flags %q and details %q; want U… and that the far end refused", flag, why)
	}
	if _, err := b.agent.Logged(t.Context(), there, func(e testbed.Entry) bool {
		return e.Get("src.identity") == other && e.Get("response_flags") == "DENY"
	}); err != nil {
		t.Errorf("the pod's agent does not log whom it refused: %v", err)
	}
}

// stopEdge drains the edge, and wants it to end well.
func stopEdge(t *testing.T, b *border) {
	t.Helper()
	if err := b.edge.Stop(); err != nil {
		t.Fatal(err)
	}
}

// An endpoint that joins the mesh is reached through the tunnel from then on, and
// in no other way: not by connections that were open before, either.
func TestEndpointJoinsTheMesh(t *testing.T) {
	b := newBorder(t)
	b.simple(t)
	b.world(t, "")
	// The edge learns of it last, as in Kubernetes, where the agent says when it has
	// taken a pod in.
	b.edge.World = filepath.Join(b.files.Dir, "edge-world.yaml")
	tell := func(pods ...*testbed.Pod) {
		if err := testbed.Replace(b.edge.World, b.World("", pods...)); err != nil {
			t.Fatal(err)
		}
	}
	tell()
	app(t, b.Web, testbed.Echo("web"))
	b.runAgent(t)
	b.run(t)
	ask := func(when string) {
		for _, v := range edgeclient.Versions {
			for range 10 {
				if _, _, err := seen(t.Context(), b.client(t, v), "https://www.example.com/"+when); err != nil {
					t.Errorf("%s: %v", when, err)
				}
			}
		}
	}
	w, err := evidence.NewWatch(b.Edge, "eth1")
	if err != nil {
		t.Fatal(err)
	}
	ask("before")
	e, err := w.Finish("before")
	if err != nil {
		t.Fatal(err)
	}
	if e.Exposed == 0 || e.Records != 0 {
		t.Fatalf("a pod that is in no mesh is reached by %+v, want plain HTTP", e)
	}

	// Requests go on while it joins.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for _, v := range edgeclient.Versions {
		c := b.client(t, v)
		load.Go(func() {
			for ctx.Err() == nil {
				if _, _, err := seen(context.WithoutCancel(ctx), c, "https://www.example.com/joining"); err != nil {
					t.Errorf("while the pod joins: %v", err)
				}
			}
		})
	}
	b.world(t, "", b.Web)
	eventually(t, func() error {
		for _, line := range testbed.LastLines(b.files.Log(b.Node), 20) {
			if strings.Contains(line, "pod is captured") {
				return nil
			}
		}
		return errors.New("the agent has not captured the pod")
	})
	tell(b.Web)
	c := b.client(t, edgeclient.HTTP2)
	eventually(t, func() error {
		s, _, err := seen(t.Context(), c, "https://www.example.com/")
		if err == nil && s.Headers.Get("X-Forwarded-Client-Cert") == "" {
			err = errors.New("the pod is still reached without a tunnel")
		}
		return err
	})
	b.world(t, testbed.OnlyEdge, b.Web)
	stop()
	load.Wait()
	if w, err = evidence.NewWatch(b.Edge, "eth1"); err != nil {
		t.Fatal(err)
	}
	ask("after")
	if e, err = w.Finish("after"); err != nil {
		t.Fatal(err)
	}
	if e.Exposed+e.Streams+e.Plain+e.NotTLS > 0 || e.Records == 0 {
		t.Errorf("a pod that has joined the mesh is reached by %+v, want nothing but the tunnel", e)
		for _, f := range w.Sniffer.Frames() {
			if s, ok := f.Segment(); ok && len(s.Payload) > 0 && s.Src.Port() != evidence.HBONEPort && s.Dst.Port() != evidence.HBONEPort {
				t.Logf("%s > %s, sequence number %d: %.300q", s.Src, s.Dst, s.Seq, s.Payload)
			}
		}
	}
}
