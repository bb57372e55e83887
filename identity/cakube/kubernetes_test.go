package cakube

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/identity/caserver"
)

// TestOnKubernetes runs the CA against a real API server, with the permissions
// of its manifests and no others, and with tokens of that API server.
func TestOnKubernetes(t *testing.T) {
	binary, err := filepath.Abs("../../.tools/kubernetes/kubernetes")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Skipf("no Kubernetes is built here (make cluster does it): %v", err)
	}
	etcd, err := exec.LookPath("etcd")
	if err != nil {
		t.Skipf("no etcd: %v", err)
	}
	rc := startKubernetes(t, etcd, binary)
	a := newAdmin(t, rc)
	k := kubernetes{t, a.c}
	k.post("/api/v1/namespaces", &corev1.Namespace{TypeMeta: meta("Namespace"), ObjectMeta: metav1.ObjectMeta{Name: system}})
	for _, name := range []string{"serviceaccount", "clusterrole", "role"} {
		k.apply(filepath.Join("../../deploy/base/ca", name+".yaml"))
	}
	k.account(system, "adit-agent")
	k.account("default", "other")
	for _, node := range []string{"node-a", "node-b"} {
		k.post("/api/v1/nodes", &corev1.Node{TypeMeta: meta("Node"), ObjectMeta: metav1.ObjectMeta{Name: node}})
	}
	k.pod(pod(system, "agent-a", "adit-agent", "node-a", ""))
	k.pod(pod(system, "agent-b", "adit-agent", "node-b", ""))
	k.pod(pod("default", "other-1", "other", "node-a", ""))

	// From here on as the CA itself.
	ca := rest.AnonymousClientConfig(rc)
	ca.BearerToken = k.token(system, "adit-ca", "", "")
	token := k.token(system, "adit-agent", "agent-a", "istio-ca")
	b := newBackend(t, ca)

	t.Run("tokens", func(t *testing.T) {
		caller, err := b.Authenticate(t.Context(), token)
		if err != nil || caller.Namespace != system || caller.ServiceAccount != "adit-agent" || caller.Pod != "agent-a" || caller.Node != "node-a" {
			t.Errorf("%+v, %v", caller, err)
		}
		if d := time.Until(caller.Expires); d < 5*time.Minute || d > time.Hour {
			t.Errorf("the token expires in %s, asked for were 10 minutes", d)
		}
		parts := strings.Split(token, ".")
		for why, bad := range map[string]string{
			"another audience": k.token(system, "adit-agent", "agent-a", ""),
			"no pod":           k.token(system, "adit-agent", "", "istio-ca"),
			"forged":           parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
			"rubbish":          "x",
		} {
			_, err := b.Authenticate(t.Context(), bad)
			if r, ok := errors.AsType[*caserver.Refusal](err); !ok || r.Reason != caserver.ReasonToken {
				t.Errorf("%s: %v; want a refusal", why, err)
			}
		}
		gone := k.token(system, "adit-agent", "agent-b", "istio-ca")
		k.end(system, "agent-b")
		if _, err := b.Authenticate(t.Context(), gone); err == nil {
			t.Error("the token of a pod that is gone is good")
		}
	})

	t.Run("pods", func(t *testing.T) {
		caller := caserver.Caller{Namespace: system, ServiceAccount: "adit-agent", Node: "node-a"}
		other := spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/other")
		check := func(stage string) {
			t.Helper()
			if err := b.Authorize(t.Context(), caller, other); err != nil {
				t.Errorf("%s: %v", stage, err)
			}
			away := caller
			away.Node = "node-b"
			if r, ok := errors.AsType[*caserver.Refusal](b.Authorize(t.Context(), away, other)); !ok || r.Reason != caserver.ReasonIdentity {
				t.Errorf("%s: a pod of node-a on node-b: %v", stage, r)
			}
		}
		check("by a list")
		stop := run(t, b)
		ready(t, b)
		check("by the watch")
		k.end("default", "other-1")
		until(t, "gone", func() error {
			if b.Authorize(t.Context(), caller, other) == nil {
				return errors.New("still authorized")
			}
			return nil
		})
		stop()
		a.delete(system, "secrets", "adit-ca")
		a.delete(system, "configmaps", "adit-ca-root")
	})

	t.Run("rotation", func(t *testing.T) {
		k.account("default", "web")
		rotationAs(t, rc, ca, token)
	})
}

func meta(kind string) metav1.TypeMeta { return metav1.TypeMeta{APIVersion: "v1", Kind: kind} }

// startKubernetes starts etcd and an API server on loopback until the test
// ends, and returns the administrator's configuration.
func startKubernetes(t *testing.T, etcd, binary string) *rest.Config {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	client, peer, port := freePort(t), freePort(t), freePort(t)
	start(t, dir, etcd, "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://"+client, "--advertise-client-urls=http://"+client,
		"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=default=http://"+peer)

	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sa := write("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	// One binary is all of Kubernetes, by the name that it is called by.
	apiserver := filepath.Join(dir, "kube-apiserver")
	if err := os.Symlink(binary, apiserver); err != nil {
		t.Fatal(err)
	}
	host, number, _ := net.SplitHostPort(port)
	start(t, dir, apiserver, "--etcd-servers=http://"+client, "--bind-address="+host, "--secure-port="+number,
		"--cert-dir="+filepath.Join(dir, "certs"), "--token-auth-file="+write("tokens.csv", []byte("admin,admin,admin,system:masters\n")),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+sa, "--service-account-signing-key-file="+sa,
		"--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.0.0.0/24", "--profiling=false")

	rc := &rest.Config{Host: "https://" + port, BearerToken: "admin", TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 1000, Burst: 1000}
	a := newAdmin(t, rc)
	deadline := time.Now().Add(2 * time.Minute)
	for {
		body, err := a.c.Get().AbsPath("/readyz").DoRaw(t.Context())
		if err == nil && string(body) == "ok" {
			return rc
		}
		if time.Now().After(deadline) {
			t.Fatalf("the API server is not ready: %v %s", err, body)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a program until the test ends, and not for longer than this
// process, whatever ends it: death of the parent is told by the thread.
func start(t *testing.T, dir string, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			tail := output.Bytes()
			t.Logf("%s said:\n%s", filepath.Base(name), tail[max(0, len(tail)-4000):])
		}
	})
}

// kubernetes does what an administrator does.
type kubernetes struct {
	t *testing.T
	c client
}

func (k kubernetes) post(path string, obj any) []byte {
	k.t.Helper()
	body, ok := obj.([]byte)
	contentType := "application/yaml"
	if !ok {
		contentType = "application/json"
		var err error
		if body, err = json.Marshal(obj); err != nil {
			k.t.Fatal(err)
		}
	}
	out, err := k.c.Post().AbsPath(path).SetHeader("Content-Type", contentType).SetHeader("Accept", "application/json").Body(body).DoRaw(k.t.Context())
	if err != nil {
		k.t.Fatalf("%s: %v: %s", path, err, out)
	}
	return out
}

// apply creates what a manifest holds, in the mesh's namespace.
func (k kubernetes) apply(path string) {
	k.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		k.t.Fatal(err)
	}
	const rbac = "/apis/rbac.authorization.k8s.io/v1/"
	paths := map[string]string{
		"ServiceAccount":     "/api/v1/namespaces/" + system + "/serviceaccounts",
		"ClusterRole":        rbac + "clusterroles",
		"ClusterRoleBinding": rbac + "clusterrolebindings",
		"Role":               rbac + "namespaces/" + system + "/roles",
		"RoleBinding":        rbac + "namespaces/" + system + "/rolebindings",
	}
	for doc := range bytes.SplitSeq(data, []byte("\n---\n")) {
		kind := ""
		for line := range strings.Lines(string(doc)) {
			if rest, ok := strings.CutPrefix(line, "kind: "); ok {
				kind = strings.TrimSpace(rest)
			}
		}
		if paths[kind] == "" {
			k.t.Fatalf("%s: no place for a %q", path, kind)
		}
		k.post(paths[kind], doc)
	}
}

func (k kubernetes) account(namespace, name string) {
	k.t.Helper()
	k.post("/api/v1/namespaces/"+namespace+"/serviceaccounts", &corev1.ServiceAccount{
		TypeMeta: meta("ServiceAccount"), ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}})
}

func (k kubernetes) pod(p *corev1.Pod) {
	k.t.Helper()
	p.TypeMeta, p.UID = meta("Pod"), ""
	k.post("/api/v1/namespaces/"+p.Namespace+"/pods", p)
}

// end removes a pod at once, as there is no kubelet that would.
func (k kubernetes) end(namespace, name string) {
	k.t.Helper()
	zero := int64(0)
	if err := k.c.Delete().Namespace(namespace).Resource("pods").Name(name).
		Body(&metav1.DeleteOptions{GracePeriodSeconds: &zero}).Do(k.t.Context()).Error(); err != nil {
		k.t.Fatal(err)
	}
}

// token asks for a token as kubelet does for a projected volume.
func (k kubernetes) token(namespace, account, pod, audience string) string {
	k.t.Helper()
	spec := map[string]any{"expirationSeconds": 600}
	if pod != "" {
		spec["boundObjectRef"] = map[string]string{"apiVersion": "v1", "kind": "Pod", "name": pod}
	}
	if audience != "" {
		spec["audiences"] = []string{audience}
	}
	out := k.post(fmt.Sprintf("/api/v1/namespaces/%s/serviceaccounts/%s/token", namespace, account), map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
	var reply struct{ Status struct{ Token string } }
	if err := json.Unmarshal(out, &reply); err != nil || reply.Status.Token == "" {
		k.t.Fatalf("no token: %v: %s", err, out)
	}
	return reply.Status.Token
}
