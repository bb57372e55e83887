package reach

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gwebsocket "github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	streamspdy "k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/adit-mesh/adit/agent/inspect"
)

// apiServer lists agents and forwards to their ports, as the real one does.
type apiServer struct {
	t    *testing.T
	pods []corev1.Pod
	// admin is where the agents' ports lead to, by pod; none is refused as the
	// kubelet words it.
	admin map[string]string
	// old: it knows no WebSockets.
	old       bool
	forwarded atomic.Int32
	sessions  sync.WaitGroup
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const pods = "/api/v1/namespaces/adit-system/pods"
	if r.Header.Get("Authorization") != "Bearer operator" {
		http.Error(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","code":401}`, http.StatusUnauthorized)
		return
	}
	name, forward := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, pods+"/"), "/portforward")
	switch {
	case r.URL.Path == pods && r.URL.Query().Get("labelSelector") == agentLabel:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: s.pods})
	case strings.HasPrefix(r.URL.Path, "/api/v1/namespaces/") && !forward:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}})
	case forward && gwebsocket.IsWebSocketUpgrade(r) && !s.old:
		s.overWebSocket(w, r, name)
	case forward && r.Method == http.MethodPost:
		s.overSPDY(w, r, name)
	default:
		http.Error(w, "no such thing", http.StatusBadRequest)
	}
}

func (s *apiServer) overWebSocket(w http.ResponseWriter, r *http.Request, pod string) {
	upgrader := gwebsocket.Upgrader{Subprotocols: []string{tunnelPrefix + portforward.PortForwardProtocolV1Name}}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	s.serve(pod, func(handler httpstream.NewStreamHandler) (httpstream.Connection, error) {
		return streamspdy.NewServerConnection(portforward.NewTunnelingConnection("server", ws), handler)
	})
}

func (s *apiServer) overSPDY(w http.ResponseWriter, r *http.Request, pod string) {
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return
	}
	s.serve(pod, func(handler httpstream.NewStreamHandler) (httpstream.Connection, error) {
		return streamspdy.NewResponseUpgrader().UpgradeResponse(w, r, handler), nil
	})
}

// serve carries the two streams of one port-forward until the session ends.
func (s *apiServer) serve(pod string, upgrade func(httpstream.NewStreamHandler) (httpstream.Connection, error)) {
	s.forwarded.Add(1)
	s.sessions.Add(1)
	defer s.sessions.Done()
	streams := make(chan httpstream.Stream, 2)
	session, err := upgrade(func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	})
	if err != nil || session == nil {
		s.t.Errorf("upgrade: %v", err)
		return
	}
	defer session.Close()
	var errs httpstream.Stream
	for {
		select {
		case <-session.CloseChan():
			return
		case stream := <-streams:
			if port := stream.Headers().Get(corev1.PortHeader); port != "15000" {
				s.t.Errorf("forward to port %s, want that of the agent", port)
			}
			if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				errs = stream
				continue
			}
			s.carry(pod, stream, errs)
		}
	}
}

func (s *apiServer) carry(pod string, data, errs httpstream.Stream) {
	defer errs.Close()
	c, err := net.Dial("tcp", s.admin[pod])
	if s.admin[pod] == "" || err != nil {
		fmt.Fprint(errs, "failed to connect to localhost:15000 inside namespace: connection refused")
		return
	}
	defer c.Close()
	go func() {
		_, _ = io.Copy(c, data)
		c.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(data, c)
	data.Close()
}

// cluster starts an API server with agents that say their names, and returns
// the kubeconfig of an operator.
func startCluster(t *testing.T, s *apiServer) string {
	t.Helper()
	s.t = t
	server := httptest.NewTLSServer(s) // client-go sends no token in the clear
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		s.sessions.Wait()
	})
	path := filepath.Join(t.TempDir(), "config")
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: operator, user: {token: operator}}]
contexts: [{name: test, context: {cluster: test, user: operator, namespace: elsewhere}}]
current-context: test
`, server.URL, base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func agentPod(name, node string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "adit-system", Name: name},
		Spec:       corev1.PodSpec{NodeName: node},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

// admin is an agent's port: it refuses any name but its own machine's.
func admin(t *testing.T, node string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.Host)
		switch {
		case host != "127.0.0.1":
			http.Error(w, "for operators on this machine", http.StatusForbidden)
		case r.URL.Path == "/slow":
			<-r.Context().Done()
		case r.URL.Path == "/why":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"error":"no such pod","candidates":["shop/a","shop/b"],"notFound":true}`)
		case r.URL.Path == "/status":
			_ = json.NewEncoder(w).Encode(inspect.Status{Info: inspect.Info{Node: node, Version: r.URL.RawQuery}})
		case r.URL.Path == "/html":
			fmt.Fprint(w, "<html>")
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func find(t *testing.T, o Options) []*Agent {
	t.Helper()
	agents, err := Find(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, a := range agents {
			a.Close()
		}
	})
	return agents
}

func status(ctx context.Context, a *Agent) (s inspect.Status, err error) {
	err = a.Get(ctx, "/status", nil, &s)
	return s, err
}

func TestAgentsOfACluster(t *testing.T) {
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old=%t", old), func(t *testing.T) {
			waiting := agentPod("agent-3", "node-c")
			waiting.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: "0/3 nodes are available"},
			}}
			s := &apiServer{
				pods:  []corev1.Pod{agentPod("agent-2", "node-b"), agentPod("agent-1", "node-a"), waiting, agentPod("agent-4", "node-d")},
				admin: map[string]string{"agent-1": admin(t, "node-a"), "agent-2": admin(t, "node-b")},
				old:   old,
			}
			agents := find(t, Options{Kubeconfig: startCluster(t, s)})
			answers := Ask(t.Context(), agents, 10*time.Second, status)
			var got []string
			for _, a := range answers {
				line := a.Agent.Node + " " + a.Value.Node
				if a.Err != nil {
					line = a.Agent.Node + " " + a.Err.Error()
				}
				got = append(got, line)
			}
			want := []string{
				"node-a node-a", "node-b node-b", "node-c its pod is Pending: 0/3 nodes are available",
				"node-d failed to connect to localhost:15000 inside namespace: connection refused",
			}
			if !slices.Equal(got, want) {
				t.Errorf("answers:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			before := s.forwarded.Load()
			if answers := Ask(t.Context(), agents[:2], 10*time.Second, status); answers[0].Err != nil || answers[1].Err != nil {
				t.Errorf("asked again: %v, %v", answers[0].Err, answers[1].Err)
			}
			if n := s.forwarded.Load() - before; n != 0 {
				t.Errorf("asking again has made %d port-forwards; a watch is to keep those it has", n)
			}
		})
	}
}

func TestSilentAgentIsGivenUp(t *testing.T) {
	s := &apiServer{pods: []corev1.Pod{agentPod("agent-1", "node-a")}, admin: map[string]string{"agent-1": admin(t, "node-a")}}
	agents := find(t, Options{Kubeconfig: startCluster(t, s)})
	answers := Ask(t.Context(), agents, 300*time.Millisecond, func(ctx context.Context, a *Agent) (struct{}, error) {
		return struct{}{}, a.Get(ctx, "/slow", nil, new(any))
	})
	if err := answers[0].Err; err == nil || err.Error() != "no answer in time" {
		t.Errorf("error %v, want one that says that time is up", err)
	}
}

func TestNodeFilter(t *testing.T) {
	s := &apiServer{pods: []corev1.Pod{agentPod("agent-1", "node-a"), agentPod("agent-2", "node-b")}}
	kubeconfig := startCluster(t, s)
	if agents := find(t, Options{Kubeconfig: kubeconfig, Node: "node-b"}); len(agents) != 1 || agents[0].Name != "agent-2" {
		t.Errorf("agents of node-b: %v", agents)
	}
	_, err := Find(t.Context(), Options{Kubeconfig: kubeconfig, Node: "node-x"})
	if err == nil || !strings.Contains(err.Error(), "no agent on node node-x; there are some on node-a, node-b") {
		t.Errorf("node without agent: %v", err)
	}
	_, err = Find(t.Context(), Options{Kubeconfig: kubeconfig, Namespace: "shop"})
	if err == nil || !strings.Contains(err.Error(), "is adit installed there? --namespace") {
		t.Errorf("namespace without agents: %v", err)
	}
	_, err = Find(t.Context(), Options{Kubeconfig: kubeconfig, Context: "prod"})
	if err == nil || !strings.Contains(err.Error(), `context "prod" does not exist`) {
		t.Errorf("unknown context: %v", err)
	}
	_, err = Find(t.Context(), Options{Kubeconfig: kubeconfig + ".lost"})
	if err == nil || !strings.Contains(err.Error(), "config.lost") {
		t.Errorf("kubeconfig that is not there: %v", err)
	}
}

// Without a kubeconfig, on a node.
func TestAgentOfThisNode(t *testing.T) {
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	local := "http://" + admin(t, "here")
	agents := find(t, Options{Local: local})
	if len(agents) != 1 || agents[0].Node != "here" {
		t.Errorf("agents %v, want that of this node", agents)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	_, err = Find(t.Context(), Options{Local: "http://" + l.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), "set KUBECONFIG or --kubeconfig, or name an admin port with --admin") {
		t.Errorf("nobody to ask: %v", err)
	}
}

func TestNamedAgents(t *testing.T) {
	at := admin(t, "node-a")
	agents := find(t, Options{Admin: []string{at, "http://" + at + "/"}})
	for _, a := range agents {
		s, err := status(t.Context(), a)
		if err != nil || s.Node != "node-a" {
			t.Errorf("%s: %v, %v", a, s.Node, err)
		}
	}
	var s inspect.Status
	if err := agents[0].Get(t.Context(), "/status", url.Values{"a": {"b c"}}, &s); err != nil || s.Version != "a=b+c" {
		t.Errorf("query arrives as %q, %v", s.Version, err)
	}
	for text, want := range map[string]string{
		"":                              "is not a URL",
		"https://127.0.0.1:15000":       "is not a URL",
		"http://127.0.0.1:15000/status": "is not a URL",
		"127.0.0.1":                     "has no port",
		"http://10.0.0.1:15000":         "answer to their own machine only",
	} {
		if _, err := Find(t.Context(), Options{Admin: []string{text}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--admin %q: %v, want …%s…", text, err, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	agent := find(t, Options{Admin: []string{admin(t, "node-a")}})[0]
	err := agent.Get(t.Context(), "/why", nil, new(any))
	if input := new(inspect.InputError); !errors.As(err, &input) || !input.NotFound || input.Error() != "no such pod; did you mean shop/a or shop/b?" {
		t.Errorf("question that is not understood: %v", err)
	}
	for path, want := range map[string]string{"/nothing": "agent of this version?", "/html": "not the JSON of an agent's /html"} {
		if err := agent.Get(t.Context(), path, nil, new(any)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("GET %s: %v, want …%s…", path, err, want)
		}
	}
}

func TestPodProblem(t *testing.T) {
	waits := corev1.ContainerStatus{Name: "agent", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 5m"}}}
	ended := corev1.ContainerStatus{Name: "agent", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}}}
	for _, tt := range []struct {
		status corev1.PodStatus
		want   string
	}{
		{corev1.PodStatus{Phase: corev1.PodRunning}, ""},
		{corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{waits}}, "its container agent waits: CrashLoopBackOff back-off 5m"},
		{corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{ended}}, "its container agent has ended: OOMKilled, exit code 137"},
		{corev1.PodStatus{Phase: corev1.PodFailed, Message: "evicted"}, "its pod is Failed: evicted"},
		{corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{waits}}, "its pod is Pending: CrashLoopBackOff back-off 5m"},
	} {
		if got := podProblem(&corev1.Pod{Status: tt.status}); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.status, got, tt.want)
		}
	}
}
