package file

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress"
)

// rig is a directory, a Source that reads it, and what it applied.
type rig struct {
	*Source
	t    *testing.T
	dir  string
	stop func()

	mu     sync.Mutex // guards all below
	config *ingress.Config
	times  int
	failed map[ingress.Bind]error
	log    bytes.Buffer
}

func (r *rig) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(b)
}

func (r *rig) logged() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func run(t *testing.T, files map[string]string) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	for name, text := range files {
		r.put(name, text)
	}
	r.start(r.dir)
	return r
}

func (r *rig) start(dir string) {
	r.t.Helper()
	source, err := New(Config{
		Dir: dir, Logger: slog.New(slog.NewTextHandler(r, nil)),
		Addresses: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1")} },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Source = source
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := source.Run(ctx, r.apply); err != nil {
			r.t.Error(err)
		}
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	r.t.Cleanup(r.stop)
}

func (r *rig) apply(c *ingress.Config) ingress.Applied {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.config, r.times = c, r.times+1
	return ingress.Applied{Failed: r.failed}
}

func (r *rig) applied() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.times
}

func (r *rig) put(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// ports are what is served, as "gateway bind".
func (r *rig) ports() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.config == nil {
		return nil
	}
	for _, p := range r.config.Ports {
		addr := ""
		if p.Bind.Addr.IsValid() {
			addr = p.Bind.Addr.String()
		}
		out = append(out, fmt.Sprintf("%s %s:%d", p.Gateway, addr, p.Bind.Port))
	}
	slices.Sort(out)
	return out
}

// certificates are the names that the only listener has certificates for.
func (r *rig) certificate() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.config == nil || len(r.config.Ports) == 0 {
		return ""
	}
	l := r.config.Ports[0].Listeners[0]
	if l.TLS == nil || len(l.TLS.Certificates) == 0 {
		return ""
	}
	leaf, err := x509.ParseCertificate(l.TLS.Certificates[0].Certificate[0])
	if err != nil {
		r.t.Fatal(err)
	}
	return leaf.Subject.CommonName
}

func (r *rig) gateway(name string) *gatewayv1.Gateway {
	for _, o := range r.Statuses() {
		if g, ok := o.(*gatewayv1.Gateway); ok && g.Name == name {
			return g
		}
	}
	return &gatewayv1.Gateway{}
}

func (r *rig) condition(name, kind string) string {
	c := meta.FindStatusCondition(r.gateway(name).Status.Conditions, kind)
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s %s gen%d", c.Status, c.Reason, c.ObservedGeneration)
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func gatewayYAML(name string, port int) string {
	return fmt.Sprintf("apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: %s}\nspec:\n  gatewayClassName: adit\n  listeners:\n  - {name: http, port: %d, protocol: HTTP}\n", name, port)
}

func TestServesADirectory(t *testing.T) {
	r := run(t, map[string]string{"gateway.yaml": gatewayYAML("eg", 80), "notes.txt": "not mine", ".hidden.yaml": "["})
	eventually(t, "the Gateway is served and programmed", func() bool {
		return slices.Equal(r.ports(), []string{"default/eg :80"}) && r.condition("eg", "Programmed") == "True Programmed gen1"
	})
	if a := r.gateway("eg").Status.Addresses; len(a) != 1 || a[0].Value != "192.0.2.1" {
		t.Errorf("addresses %+v", a)
	}
	// Generations count changes of the specification, and times those of a condition.
	since := r.gateway("eg").Status.Conditions[0].LastTransitionTime
	r.put("gateway.yaml", strings.Replace(gatewayYAML("eg", 80), "{name: eg}", "{name: eg, labels: {a: b}}", 1))
	eventually(t, "the label is seen", func() bool { return r.gateway("eg").Labels["a"] == "b" })
	if got := r.gateway("eg").Generation; got != 1 {
		t.Errorf("a label made it generation %d", got)
	}
	r.put("gateway.yaml", gatewayYAML("eg", 81))
	eventually(t, "the port is another", func() bool {
		return slices.Equal(r.ports(), []string{"default/eg :81"}) && r.condition("eg", "Programmed") == "True Programmed gen2"
	})
	if got := r.gateway("eg").Status.Conditions[0].LastTransitionTime; !got.Equal(&since) {
		t.Errorf("a condition that stayed true is said to have changed at %v, not %v", got, since)
	}
	r.put("more.yml", gatewayYAML("two", 82)+"---\n"+gatewayYAML("three", 83))
	eventually(t, "a file more", func() bool { return len(r.ports()) == 3 })
	if err := os.Remove(filepath.Join(r.dir, "gateway.yaml")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a file less", func() bool { return len(r.ports()) == 2 })
	if err := os.Rename(filepath.Join(r.dir, "more.yml"), filepath.Join(r.dir, "more.bak")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is left", func() bool { return len(r.ports()) == 0 })
	if p := r.Problems(); len(p) > 0 {
		t.Errorf("problems %v", p)
	}
}

func TestBrokenFileIsReported(t *testing.T) {
	r := run(t, map[string]string{"a.yaml": gatewayYAML("a", 80), "b.yaml": gatewayYAML("b", 81)})
	eventually(t, "both are served", func() bool { return len(r.ports()) == 2 })
	before := r.applied()
	r.put("a.yaml", strings.Replace(gatewayYAML("a", 80), "gatewayClassName", "gatewayclassname", 1))
	eventually(t, "the mistake is seen", func() bool { return len(r.Problems()) > 0 })
	if !slices.ContainsFunc(r.Problems(), func(p Problem) bool {
		return p.File == "a.yaml" && p.Line == 5 && p.Field == "spec.gatewayclassname" && strings.Contains(p.Message, "gatewayClassName")
	}) {
		t.Errorf("the problems are %v", r.Problems())
	}
	if n := strings.Count(r.logged(), "spec.gatewayclassname"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	if len(r.ports()) != 2 || r.applied() != before {
		t.Errorf("served are %v, after %d changes", r.ports(), r.applied()-before)
	}
	r.put("b.yaml", gatewayYAML("b", 82))
	eventually(t, "the other file still counts", func() bool {
		return slices.Equal(r.ports(), []string{"default/a :80", "default/b :82"})
	})
	r.put("a.yaml", gatewayYAML("a", 83))
	eventually(t, "it is repaired", func() bool {
		return slices.Equal(r.ports(), []string{"default/a :83", "default/b :82"}) && len(r.Problems()) == 0
	})
	r.put("c.yaml", gatewayYAML("a", 90))
	eventually(t, "an object that is there twice is said to be", func() bool {
		p := r.Problems()
		return len(p) == 1 && p[0].File == "c.yaml" && strings.Contains(p[0].Message, "a.yaml")
	})
}

// kubelet swaps a symbolic link, and with it all files at once.
func TestConfigMapVolume(t *testing.T) {
	dir := t.TempDir()
	version := func(n, port int) {
		v := fmt.Sprintf("..v%d", n)
		if err := os.Mkdir(filepath.Join(dir, v), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if err := os.WriteFile(filepath.Join(dir, v, name+".yaml"), []byte(gatewayYAML(name, port)), 0o600); err != nil {
				t.Fatal(err)
			}
			port++
		}
		if err := os.Symlink(v, filepath.Join(dir, "..tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version(1, 80)
	for _, name := range []string{"a.yaml", "b.yaml"} {
		if err := os.Symlink("..data/"+name, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r := &rig{t: t, dir: dir}
	r.start(dir)
	eventually(t, "the first version", func() bool { return slices.Equal(r.ports(), []string{"default/a :80", "default/b :81"}) })
	version(2, 90)
	if err := os.RemoveAll(filepath.Join(dir, "..v1")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second", func() bool { return slices.Equal(r.ports(), []string{"default/a :90", "default/b :91"}) })
	if p := r.Problems(); len(p) > 0 {
		t.Errorf("problems %v", p)
	}
}

// A whole directory that is a link to the current version of it.
func TestLinkedDirectory(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "current")
	for n, port := range []int{80, 81} {
		v := filepath.Join(dir, fmt.Sprintf("v%d", n))
		if err := os.Mkdir(v, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(v, "g.yaml"), []byte(gatewayYAML("g", port)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("v0", link); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir}
	r.start(link)
	eventually(t, "the first", func() bool { return slices.Equal(r.ports(), []string{"default/g :80"}) })
	if err := os.Symlink("v1", link+".next"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+".next", link); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second", func() bool { return slices.Equal(r.ports(), []string{"default/g :81"}) })
	// The link away for a moment takes nothing down.
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is said", func() bool { return len(r.Problems()) == 1 })
	if len(r.ports()) != 1 {
		t.Error("nothing is served any more")
	}
	if err := os.Symlink("v0", link); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first again", func() bool {
		return slices.Equal(r.ports(), []string{"default/g :80"}) && len(r.Problems()) == 0
	})
}

// Of a file that is being written nothing is taken before it is closed.
func TestHalfWrittenFile(t *testing.T) {
	r := run(t, map[string]string{"a.yaml": gatewayYAML("a", 80) + "---\n" + gatewayYAML("b", 81)})
	eventually(t, "both are served", func() bool { return len(r.ports()) == 2 })
	f, err := os.OpenFile(filepath.Join(r.dir, "a.yaml"), os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(gatewayYAML("a", 80)); err != nil {
		t.Fatal(err)
	}
	r.put("other.yaml", gatewayYAML("c", 82)) // whatever happens beside it
	eventually(t, "the other file is read", func() bool { return slices.Contains(r.ports(), "default/c :82") })
	if !slices.Contains(r.ports(), "default/b :81") {
		t.Error("half a file was taken for a whole one")
	}
	if _, err := f.WriteString("---\n" + gatewayYAML("b", 91)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the whole", func() bool { return slices.Contains(r.ports(), "default/b :91") })
}

func pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

const httpsGateway = `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg}
spec:
  gatewayClassName: adit
  listeners:
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
`

// Certificates are where certbot and its like put them, and renewed in place:
// first the one file, then the other.
func TestCertificateFiles(t *testing.T) {
	live := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(live, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, key := pair(t, "first.example")
	write("cert.pem", cert)
	write("key.pem", key)
	r := run(t, map[string]string{
		"gateway.yaml": httpsGateway,
		"secret.yaml": fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata:\n  name: cert\n  annotations: {adit-mesh.github.io/files: 'tls.crt=%s/cert.pem, tls.key=%s/key.pem'}\n",
			live, live),
	})
	eventually(t, "the first certificate", func() bool { return r.certificate() == "first.example" })
	cert, key = pair(t, "second.example")
	write("cert.pem", cert)
	eventually(t, "that they do not fit is said", func() bool {
		return len(r.Problems()) == 1 && strings.Contains(r.Problems()[0].Message, "do not belong together")
	})
	if got := r.certificate(); got != "first.example" {
		t.Errorf("in between %q is served", got)
	}
	write("key.pem", key)
	eventually(t, "the second", func() bool { return r.certificate() == "second.example" && len(r.Problems()) == 0 })
	if err := os.Remove(filepath.Join(live, "key.pem")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a file that is gone is said to be", func() bool { return len(r.Problems()) == 1 })
	if got := r.certificate(); got != "second.example" {
		t.Errorf("without a key file %q is served", got)
	}
	cert, key = pair(t, "third.example")
	write("cert.pem", cert)
	write("key.pem", key)
	eventually(t, "the third", func() bool { return r.certificate() == "third.example" && len(r.Problems()) == 0 })
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
}

// Of two Gateways that want one socket one has it; the other has it next.
func TestOneSocketForTwoGateways(t *testing.T) {
	r := run(t, map[string]string{"a.yaml": gatewayYAML("a", 80), "b.yaml": gatewayYAML("b", 80)})
	eventually(t, "the first by name is served", func() bool {
		return slices.Equal(r.ports(), []string{"default/a :80"}) && r.condition("a", "Programmed") == "True Programmed gen1" &&
			r.condition("b", "Programmed") == "False AddressNotUsable gen1"
	})
	r.put("b.yaml", strings.Replace(gatewayYAML("b", 80), "spec:", "spec:\n  addresses: [{value: 192.0.2.9}]", 1))
	eventually(t, "with an address of its own both are", func() bool {
		return slices.Equal(r.ports(), []string{"default/a :80", "default/b 192.0.2.9:80"}) && r.condition("b", "Programmed") == "True Programmed gen2"
	})
	r.put("b.yaml", gatewayYAML("b", 80))
	eventually(t, "without it is not", func() bool { return slices.Equal(r.ports(), []string{"default/a :80"}) })
	if err := os.Remove(filepath.Join(r.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second has it once it is free", func() bool {
		return slices.Equal(r.ports(), []string{"default/b :80"}) && strings.HasPrefix(r.condition("b", "Programmed"), "True")
	})
}

func TestSaysWhatIsBadOnce(t *testing.T) {
	r := run(t, map[string]string{"gateway.yaml": httpsGateway})
	eventually(t, "the missing Secret is logged", func() bool { return strings.Contains(r.logged(), "condition=ResolvedRefs") })
	n := strings.Count(r.logged(), "condition=ResolvedRefs")
	r.put("other.yaml", gatewayYAML("other", 80))
	eventually(t, "the other Gateway is served", func() bool { return slices.Contains(r.ports(), "default/other :80") })
	if now := strings.Count(r.logged(), "condition=ResolvedRefs"); now != n {
		t.Errorf("a condition that did not change is logged again:\n%s", r.logged())
	}
	cert, key := pair(t, "a.example")
	r.put("secret.yaml", fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: cert}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: %q\n  tls.key: %q\n", cert, key))
	eventually(t, "it is said that all is well", func() bool {
		return strings.Contains(r.logged(), `msg="the conditions are good" object="Gateway default/eg"`)
	})
}

// A socket that could not be had is asked for again.
func TestFailedSocketIsTriedAgain(t *testing.T) {
	r := &rig{t: t, dir: t.TempDir(), failed: map[ingress.Bind]error{{Port: 80}: errors.New("address already in use")}}
	r.put("a.yaml", gatewayYAML("a", 80))
	r.start(r.dir)
	eventually(t, "the Gateway is not programmed", func() bool { return strings.HasPrefix(r.condition("a", "Programmed"), "False") || r.applied() > 0 })
	r.mu.Lock()
	r.failed = nil
	r.mu.Unlock()
	r.put("touch.yaml", "# nothing\n")
	eventually(t, "it is programmed", func() bool { return strings.HasPrefix(r.condition("a", "Programmed"), "True") })
	// Whoever serves may find out by itself.
	r.Recheck(func() ingress.Applied {
		return ingress.Applied{Failed: map[ingress.Bind]error{{Port: 80}: errors.New("the address is gone")}}
	})
	eventually(t, "it is not any more", func() bool { return strings.HasPrefix(r.condition("a", "Programmed"), "False") })
	r.Recheck(func() ingress.Applied { return ingress.Applied{} })
	eventually(t, "it is again", func() bool { return strings.HasPrefix(r.condition("a", "Programmed"), "True") })
}

func TestRunWantsADirectory(t *testing.T) {
	s, err := New(Config{Dir: filepath.Join(t.TempDir(), "none")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), func(*ingress.Config) ingress.Applied { return ingress.Applied{} }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no directory is no error")
	}
}
