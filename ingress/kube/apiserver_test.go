package kube

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"go.uber.org/goleak"
)

// apiServer is a real kube-apiserver with its etcd, on loopback: all that this
// package talks to. There are no controllers and no nodes, so nothing happens
// that a test does not do.
type apiServer struct {
	dir        string
	etcd, kube *exec.Cmd
	address    string
	admin      *rest.Config
	client     dynamic.Interface
}

var theServer struct {
	once   sync.Once
	server *apiServer
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if s := theServer.server; s != nil {
		s.stop()
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// kubernetes finds what `make cluster` builds.
const kubernetes = "../../.tools/kubernetes/kubernetes"

// server is the API server that the tests share. Each test has objects of its
// own.
func server(t *testing.T) *apiServer {
	t.Helper()
	if _, err := os.Stat(kubernetes); err != nil {
		skip(t, "no Kubernetes binaries; run make cluster, which builds them: %v", err)
	}
	if _, err := exec.LookPath("etcd"); err != nil {
		skip(t, "no etcd; install Debian's etcd-server: %v", err)
	}
	theServer.once.Do(func() { theServer.server, theServer.err = startAPIServer() })
	if theServer.err != nil {
		t.Fatal(theServer.err)
	}
	return theServer.server
}

// skip skips, visibly. Where the cluster tests run, it fails.
func skip(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" && os.Getenv("ADIT_CLUSTER") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func startAPIServer() (*apiServer, error) {
	dir, err := os.MkdirTemp("", "adit-ingress-kube-")
	if err != nil {
		return nil, err
	}
	s := &apiServer{dir: dir}
	if err := s.start(); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *apiServer) start() error {
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	s.etcd, err = s.run("etcd", "etcd", "--data-dir", filepath.Join(s.dir, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer,
		"--logger=zap", "--log-level=error")
	if err != nil {
		return err
	}
	sa := filepath.Join(s.dir, "sa.key")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	if err := os.WriteFile(sa, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(rsaKey)}), 0o600); err != nil {
		return err
	}
	tokens := filepath.Join(s.dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte("admin-token,admin,1,system:masters\ningress-token,system:serviceaccount:adit-system:adit-ingress,2,system:serviceaccounts\n"), 0o600); err != nil {
		return err
	}
	binary, err := filepath.Abs(kubernetes)
	if err != nil {
		return err
	}
	s.kube, err = s.run(binary, "kube-apiserver",
		"--etcd-servers="+client, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]),
		"--cert-dir="+filepath.Join(s.dir, "certs"), "--token-auth-file="+tokens,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+sa, "--service-account-signing-key-file="+sa,
		"--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount", "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112", "--profiling=false")
	if err != nil {
		return err
	}
	s.address = fmt.Sprintf("127.0.0.1:%d", ports[2])
	s.admin = s.config("admin-token", s.address)
	if s.client, err = dynamic.NewForConfig(s.admin); err != nil {
		return err
	}
	return s.ready()
}

// config is the way to the API server at an address, as the bearer of a token.
func (s *apiServer) config(token, address string) *rest.Config {
	return &rest.Config{
		Host: "https://" + address, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
		QPS: -1, WarningHandler: rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{
			ContentType: runtime.ContentTypeProtobuf, AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
	}
}

func (s *apiServer) run(path string, args ...string) (*exec.Cmd, error) {
	log, err := os.Create(filepath.Join(s.dir, args[0]+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := exec.Command(path, args[1:]...)
	c.Args[0] = args[0]
	c.Stdout, c.Stderr = log, log
	// A test binary that is killed takes its servers along.
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c, c.Start()
}

func (s *apiServer) ready() error {
	client, err := rest.HTTPClientFor(s.admin)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		r, err := client.Get(s.admin.Host + "/readyz")
		if err == nil {
			_, _ = io.Copy(io.Discard, r.Body)
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(r.Status)
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.dir, "kube-apiserver.log"))
			return fmt.Errorf("the API server is not ready: %w\n%s", err, log[max(0, len(log)-2000):])
		}
	}
}

func (s *apiServer) stop() {
	for _, c := range [...]*exec.Cmd{s.kube, s.etcd} {
		if c != nil && c.Process != nil {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if s.admin != nil {
		if c, err := rest.HTTPClientFor(s.admin); err == nil {
			c.CloseIdleConnections()
		}
	}
	_ = os.RemoveAll(s.dir)
}

func freePorts(n int) (out []int, err error) {
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

// apply creates objects from YAML documents, with their status.
func (s *apiServer) apply(t *testing.T, text string) {
	t.Helper()
	for doc := range strings.SplitSeq(text, "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		c := s.resource(u.GroupVersionKind(), u.GetNamespace())
		status, hasStatus := u.Object["status"]
		made, err := c.Create(t.Context(), u, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			var old *unstructured.Unstructured
			if old, err = c.Get(t.Context(), u.GetName(), metav1.GetOptions{}); err == nil {
				u.SetResourceVersion(old.GetResourceVersion())
				u.SetUID(old.GetUID())
				made, err = c.Update(t.Context(), u, metav1.UpdateOptions{})
			}
		}
		if err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
		if hasStatus {
			made.Object["status"] = status
			if _, err := c.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
				t.Fatalf("status of %s %s: %v", u.GetKind(), u.GetName(), err)
			}
		}
	}
}

var plurals = map[string]string{
	"GatewayClass": "gatewayclasses", "BackendTLSPolicy": "backendtlspolicies", "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
}

func (s *apiServer) resource(gvk schema.GroupVersionKind, namespace string) dynamic.ResourceInterface {
	plural, ok := plurals[gvk.Kind]
	if !ok {
		plural = strings.ToLower(gvk.Kind) + "s"
	}
	r := s.client.Resource(gvk.GroupVersion().WithResource(plural))
	if namespace != "" {
		return r.Namespace(namespace)
	}
	return r
}

// delete deletes one object at once.
func (s *apiServer) delete(t *testing.T, apiVersion, kind, namespace, name string) {
	t.Helper()
	now := int64(0)
	c := s.resource(schema.FromAPIVersionAndKind(apiVersion, kind), namespace)
	if err := c.Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatalf("delete %s %s: %v", kind, name, err)
	}
}

// crds are the definitions of Gateway API's experimental channel, out of its
// module, with what guards upgrades left out.
func crds(t *testing.T) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/gateway-api").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "config/crd/experimental/gateway.networking.k8s.io_*s.yaml"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d definitions: %v", len(files), err)
	}
	var all []string
	for _, name := range files {
		if strings.HasSuffix(name, "vap_safeupgrades.yaml") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return all
}

// eventually polls until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// relay is a way to the API server that can be cut.
type relay struct {
	net.Listener
	to string

	mu    sync.Mutex // guards the fields below
	cut   bool
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, to: to, conns: map[net.Conn]struct{}{}}
	r.wg.Go(r.serve)
	t.Cleanup(func() {
		l.Close()
		r.set(true)
		r.wg.Wait()
	})
	return r
}

func (r *relay) serve() {
	for {
		in, err := r.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", r.to)
		if err != nil || !r.add(in, out) {
			in.Close()
			if err == nil {
				out.Close()
			}
			continue
		}
		for _, pair := range [...][2]net.Conn{{in, out}, {out, in}} {
			r.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				pair[0].Close()
				pair[1].Close()
			})
		}
	}
}

func (r *relay) add(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cut {
		return false
	}
	for _, c := range conns {
		r.conns[c] = struct{}{}
	}
	return true
}

// set cuts the way, and every connection on it, or opens it again.
func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	if cut {
		for c := range r.conns {
			c.Close()
		}
		clear(r.conns)
	}
}
