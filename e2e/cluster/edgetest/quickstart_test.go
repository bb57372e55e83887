package edgetest

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

func testdata(name string) string {
	return filepath.Join(meshlab.Root(), "e2e/cluster/edgetest/testdata", name)
}

// quickstart applies the first part of the tutorial: a Gateway for HTTP, the
// backend and its route.
func quickstart(t *testing.T) {
	t.Helper()
	for _, name := range []string{"gatewayclass", "gateway", "backend", "httproute"} {
		applyFile(t, "http3/"+name+".yaml")
	}
}

// openssl makes the tutorial's certificates: a root, and one for
// www.example.com with a common name alone, as clients took them once.
func openssl(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, line := range []string{
		`req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -subj '/O=example Inc./CN=example.com' -keyout example.com.key -out example.com.crt`,
		`req -out www.example.com.csr -newkey rsa:2048 -nodes -keyout www.example.com.key -subj "/CN=www.example.com/O=example organization"`,
		`x509 -req -days 365 -CA example.com.crt -CAkey example.com.key -set_serial 0 -in www.example.com.csr -out www.example.com.crt`,
	} {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", "openssl "+line)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v: %s", line, err, out)
		}
	}
	return dir
}

// TestQuickstart goes through the tutorial "HTTP/3 with Envoy Gateway" with its
// manifests as they stand.
func TestQuickstart(t *testing.T) {
	quickstart(t)
	at := addressOf(t, "default", "eg")
	if got := columns(t, "gatewayclass", "eg"); got["NAME"] != "eg" || got["CONTROLLER"] != envoyController || got["ACCEPTED"] != "True" {
		t.Errorf("kubectl get gatewayclass: %v", got)
	}
	wantGatewayColumns(t, at)
	if got := columns(t, "httproute", "backend"); got["NAME"] != "backend" || got["HOSTNAMES"] != `["www.example.com"]` {
		t.Errorf("kubectl get httproute: %v", got)
	}
	plain := newClient(h1, at, nil)
	defer plain.close()
	if a := plain.reach(t, "backend-", "http://www.example.com/get"); a.header.Get("Alt-Svc") != "" {
		t.Errorf("alt-svc %q without HTTPS", a.header.Get("Alt-Svc"))
	}

	dir := openssl(t)
	meshlab.Kubectl(t, "create", "secret", "tls", "example-cert",
		"--key="+filepath.Join(dir, "www.example.com.key"), "--cert="+filepath.Join(dir, "www.example.com.crt"))
	t.Cleanup(func() { _, _ = meshlab.Cluster().Kubectl(context.Background(), "delete", "secret", "example-cert") })
	patch, err := os.ReadFile(testdata("http3/listener.patch"))
	if err != nil {
		t.Fatal(err)
	}
	meshlab.Kubectl(t, "patch", "gateway", "eg", "--type=json", "--patch", string(patch))
	applyFile(t, "http3/clienttrafficpolicy.yaml")
	listener(t, "default", "eg", "https", "Programmed", "True", "Programmed")
	if now := addressOf(t, "default", "eg"); now != at {
		t.Errorf("the second listener moved the Gateway from %s to %s", at, now)
	}
	wantGatewayColumns(t, at)
	wantPolicy(t, "enable-http3", "True", "Accepted", "")

	for _, v := range []version{h3, h2, h1} {
		c := newClient(v, at, nil)
		wantTutorial(t, c.reach(t, "backend-", "https://www.example.com/get"), v)
		c.close()
	}
	debian(t, at)

	// What this edge does not do is refused, not ignored.
	edit := func(patch string) {
		meshlab.Kubectl(t, "patch", "clienttrafficpolicy", "enable-http3", "--type=merge", "--patch", patch)
	}
	edit(`{"spec": {"tcpKeepalive": {"probes": 3}}}`)
	wantPolicy(t, "enable-http3", "False", "Invalid", "tcpKeepalive")
	edit(`{"spec": {"tcpKeepalive": null}}`)
	wantPolicy(t, "enable-http3", "True", "Accepted", "")
}

func wantGatewayColumns(t *testing.T, at netip.Addr) {
	t.Helper()
	if got := columns(t, "gateway", "eg"); got["CLASS"] != "eg" || got["ADDRESS"] != at.String() || got["PROGRAMMED"] != "True" {
		t.Errorf("kubectl get gateway: %v, want class eg, address %s, programmed", got, at)
	}
}

func wantPolicy(t *testing.T, name, status, reason, names string) {
	t.Helper()
	meshlab.Eventually(t, "ClientTrafficPolicy "+name+" is "+reason, func() error {
		var p policyObject
		if err := getJSON(t.Context(), &p, "clienttrafficpolicy", name); err != nil {
			return err
		}
		if len(p.Status.Ancestors) != 1 {
			return errNoStatus
		}
		a := p.Status.Ancestors[0]
		if a.ControllerName != envoyController || a.AncestorRef.Kind != "Gateway" || a.AncestorRef.Name != "eg" {
			t.Errorf("it is told of %+v by %s", a.AncestorRef, a.ControllerName)
		}
		if err := wantCondition(a.Conditions, p.Metadata.Generation, "Accepted", status, reason); err != nil {
			return err
		}
		if !strings.Contains(a.Conditions[0].Message, names) {
			t.Errorf("the message %q does not name %q", a.Conditions[0].Message, names)
		}
		return nil
	})
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// wantTutorial compares an answer with the tutorial's.
func wantTutorial(t *testing.T, a *answer, v version) {
	t.Helper()
	for name, want := range map[string]string{
		"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Server": "adit", "Alt-Svc": `h3=":443"; ma=86400`,
	} {
		if got := a.header.Get(name); got != want {
			t.Errorf("%s: %s is %q, want %q", v, strings.ToLower(name), got, want)
		}
	}
	for _, name := range []string{"Date", "Content-Length", "X-Envoy-Upstream-Service-Time"} {
		if a.header.Get(name) == "" {
			t.Errorf("%s: no %s in the answer", v, strings.ToLower(name))
		}
	}
	if a.Path != "/get" || a.Host != "www.example.com" || a.Method != "GET" || a.Proto != "HTTP/1.1" || a.Namespace != "default" {
		t.Errorf("%s: the backend saw %+v", v, a.echo)
	}
	outside := "172.30.0.10" // the client
	for name, want := range map[string]string{
		"User-Agent": "edgetest", "X-Envoy-Expected-Rq-Timeout-Ms": "15000", "X-Envoy-Internal": "true",
		"X-Forwarded-For": outside, "X-Forwarded-Proto": "https",
	} {
		if got := a.Headers.Get(name); got != want {
			t.Errorf("%s: the backend saw %s %q, want %q", v, name, got, want)
		}
	}
	if got := a.Headers.Get("X-Request-Id"); !uuid.MatchString(got) {
		t.Errorf("%s: X-Request-Id is %q", v, got)
	}
	for _, name := range []string{"Transfer-Encoding", "Content-Length", "X-Forwarded-Client-Cert"} {
		if got := a.Headers.Get(name); got != "" {
			t.Errorf("%s: the backend saw %s %q", v, name, got)
		}
	}
}

// debian asks with Debian's own clients, where they are installed.
func debian(t *testing.T, at netip.Addr) {
	t.Helper()
	for _, argv := range [][]string{
		{"curl", "-sk", "--http1.1", "-o", "-", "-w", "%{http_version} %{http_code}", "--resolve", "www.example.com:443:" + at.String(), "https://www.example.com/get"},
		{"curl", "-sk", "--http2", "-o", "-", "-w", "%{http_version} %{http_code}", "--resolve", "www.example.com:443:" + at.String(), "https://www.example.com/get"},
		{"gtlsclient", "--exit-on-all-streams-close", at.String(), "443", "https://www.example.com/get"},
	} {
		if _, err := exec.LookPath(argv[0]); err != nil {
			t.Logf("without %s: it is not installed", argv[0])
			continue
		}
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := meshlab.Cluster().Outside().Do(cmd.Run); err != nil {
			t.Errorf("%v: %v\n%s", argv, err, out.String())
		}
		if !strings.Contains(out.String(), `"pod": "backend-`) && !strings.Contains(out.String(), ":status: 200") {
			t.Errorf("%v prints\n%s", argv, out.String())
		}
	}
}
