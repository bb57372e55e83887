package cakube

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/adit-mesh/adit/identity"
	"github.com/adit-mesh/adit/identity/ca"
)

var (
	domain = spiffeid.RequireTrustDomainFromString("cluster.local")
	web    = spiffeid.RequireFromString("spiffe://cluster.local/ns/default/sa/web")
)

const system = "adit-system"

func newBackend(t *testing.T, rc *rest.Config, change ...func(*Config)) *Backend {
	t.Helper()
	cfg := Config{
		REST: rc, Namespace: system, TrustDomain: domain, Agents: []string{system + "/adit-agent"},
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	for _, f := range change {
		f(&cfg)
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run runs a backend until the test ends, or stop.
func run(t *testing.T, b *Backend) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// until polls for what should come to be.
func until(t *testing.T, why string, ok func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", why, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func ready(t *testing.T, b *Backend) {
	t.Helper()
	until(t, "ready", b.Ready)
}

func signing(t *testing.T, b *Backend) *x509.Certificate {
	t.Helper()
	a, err := b.Authority()
	if err != nil {
		t.Fatal(err)
	}
	return a.Issuer.Certificate()
}

// admin does what a person with a kubeconfig does.
type admin struct {
	t *testing.T
	c client
}

func newAdmin(t *testing.T, rc *rest.Config) admin {
	t.Helper()
	c, err := newClient(rc, corev1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	return admin{t, c}
}

func (a admin) secret() *corev1.Secret {
	a.t.Helper()
	s := new(corev1.Secret)
	if err := a.c.get(a.t.Context(), "secrets", system, "adit-ca", s); err != nil {
		a.t.Fatal(err)
	}
	return s
}

func (a admin) bundle() ([]*x509.Certificate, error) {
	cm := new(corev1.ConfigMap)
	if err := a.c.get(a.t.Context(), "configmaps", system, "adit-ca-root", cm); err != nil {
		return nil, err
	}
	return identity.ParseRoots([]byte(cm.Data["root-cert.pem"]))
}

// publishes says whether the bundle is exactly certs.
func (a admin) publishes(certs ...*x509.Certificate) error {
	got, err := a.bundle()
	if err != nil {
		return err
	}
	if len(got) != len(certs) {
		return fmt.Errorf("%d roots in the bundle, want %d", len(got), len(certs))
	}
	for i := range certs {
		if !got[i].Equal(certs[i]) {
			return fmt.Errorf("root %d is another", i)
		}
	}
	return nil
}

func (a admin) delete(namespace, resource, name string) {
	a.t.Helper()
	if err := a.c.Delete().Namespace(namespace).Resource(resource).Name(name).Do(a.t.Context()).Error(); err != nil {
		a.t.Fatal(err)
	}
}

// change updates an object whatever others do to it meanwhile.
func (a admin) changeSecret(f func(*corev1.Secret)) {
	a.t.Helper()
	until(a.t, "change the Secret", func() error {
		s := a.secret()
		f(s)
		return a.c.update(a.t.Context(), "secrets", system, s.Name, s, new(corev1.Secret))
	})
}

func TestReplicasMakeOneRoot(t *testing.T) {
	api := startAPIServer(t)
	var replicas []*Backend
	for range 8 {
		b := newBackend(t, api.config())
		replicas = append(replicas, b)
		run(t, b)
	}
	for _, b := range replicas {
		ready(t, b)
	}
	want := signing(t, replicas[0])
	for i, b := range replicas {
		if !signing(t, b).Equal(want) {
			t.Errorf("replica %d signs with a root of its own", i)
		}
	}
	if err := newAdmin(t, api.config()).publishes(want); err != nil {
		t.Error(err)
	}
}

func TestNotReadyBeforeTheBundleIsOut(t *testing.T) {
	api := startAPIServer(t)
	api.deny("create", "configmaps", true)
	b := newBackend(t, api.config())
	run(t, b)
	until(t, "it says why", func() error {
		if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "publish the trust bundle in ConfigMap adit-system/adit-ca-root") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	api.deny("create", "configmaps", false)
	ready(t, b)
}

func TestNotReadyBeforeThePodsAreListed(t *testing.T) {
	api := startAPIServer(t)
	api.deny("list", "pods", true)
	b := newBackend(t, api.config())
	run(t, b)
	until(t, "it says why", func() error {
		if err := b.Ready(); err == nil || !strings.Contains(err.Error(), "the pods of the cluster are not listed: pods is forbidden") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	api.deny("list", "pods", false)
	ready(t, b)
}

func TestBundleIsPutBack(t *testing.T) {
	api := startAPIServer(t)
	b := newBackend(t, api.config())
	run(t, b)
	ready(t, b)
	a, root := newAdmin(t, api.config()), signing(t, b)

	a.delete(system, "configmaps", "adit-ca-root")
	until(t, "deleted", func() error { return a.publishes(root) })

	cm := new(corev1.ConfigMap)
	if err := a.c.get(t.Context(), "configmaps", system, "adit-ca-root", cm); err != nil {
		t.Fatal(err)
	}
	cm.Data = map[string]string{"root-cert.pem": "rubbish", "note": "mine"}
	if err := a.c.update(t.Context(), "configmaps", system, cm.Name, cm, new(corev1.ConfigMap)); err != nil {
		t.Fatal(err)
	}
	until(t, "overwritten", func() error { return a.publishes(root) })
	if err := a.c.get(t.Context(), "configmaps", system, "adit-ca-root", cm); err != nil || cm.Data["note"] != "mine" {
		t.Errorf("somebody else's key is gone: %v, %v", cm.Data, err)
	}
	// It writes when something is wrong, and then no more.
	writes, reads := api.count("update", "configmaps"), api.count("get", "configmaps")
	edge(b.changed).signal()
	until(t, "it looked again", func() error {
		if got := api.count("get", "configmaps"); got <= reads {
			return fmt.Errorf("%d reads", got-reads)
		}
		return nil
	})
	if got := api.count("update", "configmaps"); got != writes {
		t.Errorf("%d updates without a change", got-writes)
	}
}

func TestDeletedSecretIsMadeAgainFromMemory(t *testing.T) {
	api := startAPIServer(t)
	b, other := newBackend(t, api.config()), newBackend(t, api.config())
	run(t, b)
	run(t, other)
	ready(t, b)
	ready(t, other)
	a, root := newAdmin(t, api.config()), signing(t, b)
	a.delete(system, "secrets", "adit-ca")
	until(t, "there again", func() error {
		return a.c.get(t.Context(), "secrets", system, "adit-ca", new(corev1.Secret))
	})
	set, err := ca.ParseRootSet(domain, a.secret().Data["roots.json"])
	if err != nil || !set.Bundle()[0].Equal(root) {
		t.Errorf("agents trust one root and the Secret holds another: %v", err)
	}
}

func TestMalformedSecretIsLeftAlone(t *testing.T) {
	tests := map[string]map[string][]byte{
		"empty":         {},
		"another's":     {"tls.key": []byte("x")},
		"damaged":       {"roots.json": []byte(`{"version":1,"roots":[`)},
		"newer":         {"roots.json": []byte(`{"version":7,"roots":[]}`)},
		"trust renamed": {},
	}
	p, _ := ca.RotationPolicy{}.WithDefaults()
	foreign, err := ca.NewRootSet(spiffeid.RequireTrustDomainFromString("other.example"), p)
	if err != nil {
		t.Fatal(err)
	}
	if tests["trust renamed"]["roots.json"], err = foreign.Encode(); err != nil {
		t.Fatal(err)
	}
	for why, data := range tests {
		t.Run(why, func(t *testing.T) {
			api := startAPIServer(t)
			a := newAdmin(t, api.config())
			created := new(corev1.Secret)
			if err := a.c.create(t.Context(), "secrets", system, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "adit-ca"}, Data: data}, created); err != nil {
				t.Fatal(err)
			}
			b := newBackend(t, api.config())
			run(t, b)
			until(t, "it says what is wrong", func() error {
				if _, err := b.Authority(); err == nil || !strings.Contains(err.Error(), "Secret adit-system/adit-ca") || !strings.Contains(err.Error(), "left as it is") {
					return fmt.Errorf("authority: %v", err)
				}
				return nil
			})
			if _, err := a.bundle(); !apierrors.IsNotFound(err) {
				t.Errorf("something was published: %v", err)
			}
			if a.secret().ResourceVersion != created.ResourceVersion {
				t.Error("the Secret was written")
			}

			// Whoever looks after the cluster puts it right.
			good, err := ca.NewRootSet(domain, p)
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := good.Encode()
			if err != nil {
				t.Fatal(err)
			}
			a.changeSecret(func(s *corev1.Secret) { s.Data = map[string][]byte{"roots.json": encoded} })
			ready(t, b)
			if !signing(t, b).Equal(good.Bundle()[0]) {
				t.Error("it signs with another root than the Secret's")
			}
		})
	}
}

func TestRunningReplicaOutlastsADamagedSecret(t *testing.T) {
	api := startAPIServer(t)
	b := newBackend(t, api.config())
	run(t, b)
	ready(t, b)
	a, root := newAdmin(t, api.config()), signing(t, b)
	good := a.secret().Data["roots.json"]
	a.changeSecret(func(s *corev1.Secret) { s.Data["roots.json"] = []byte("{") })
	until(t, "noticed", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.err == nil {
			return fmt.Errorf("no error")
		}
		return nil
	})
	if !signing(t, b).Equal(root) || string(a.secret().Data["roots.json"]) != "{" {
		t.Error("it does not go on signing, or it wrote the Secret")
	}
	a.changeSecret(func(s *corev1.Secret) { s.Data["roots.json"] = good })
	until(t, "repaired", func() error { b.mu.Lock(); defer b.mu.Unlock(); return b.err })
}

// TestRootsAreNotBelievedForEver: another replica may have retired them.
func TestRootsAreNotBelievedForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, &rest.Config{Host: "http://192.0.2.1"})
		if _, err := b.Authority(); err == nil {
			t.Error("signs with nothing")
		}
		p, _ := ca.RotationPolicy{}.WithDefaults()
		set, err := ca.NewRootSet(domain, p)
		if err != nil {
			t.Fatal(err)
		}
		b.adopt(set.Authority(time.Hour), set)
		first, err := b.Authority()
		if err != nil {
			t.Fatal(err)
		}
		// Read again they are the same issuer, so that nothing is made anew.
		data, _ := set.Encode()
		if set, err = ca.ParseRootSet(domain, data); err != nil {
			t.Fatal(err)
		}
		b.adopt(set.Authority(time.Hour), set)
		if again, _ := b.Authority(); again.Issuer != first.Issuer {
			t.Error("the same root is another issuer")
		}
		time.Sleep(rootsBelieved)
		if _, err := b.Authority(); err != nil {
			t.Errorf("the API server is away for a little: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := b.Authority(); err == nil || !strings.Contains(err.Error(), "too long ago") {
			t.Errorf("for longer: %v", err)
		}
		b.adopt(set.Authority(time.Hour), set)
		if _, err := b.Authority(); err != nil {
			t.Errorf("back: %v", err)
		}
	})
}
