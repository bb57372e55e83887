package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// adit runs the program to its end.
func adit(t *testing.T, ns *lab.Namespace, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err bytes.Buffer
	cmd := exec.Command(mustBinary(t), args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &err, []string{}
	p, startErr := ns.Start(cmd)
	if startErr != nil {
		t.Fatal(startErr)
	}
	select {
	case <-p.Done():
	case <-time.After(patience):
		p.Kill()
		t.Fatalf("adit %s does not end:\n%s%s", strings.Join(args, " "), &out, &err)
	}
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// What is wrong is said before anything runs, with the file and the field.
func TestIngressRefusesWhatItCannotServe(t *testing.T) {
	b := newBorder(t)
	notes := filepath.Join(b.files.Dir, "notes.txt")
	if err := os.WriteFile(notes, []byte("not a configuration\x00\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for why, tt := range map[string]struct {
		args []string
		says string
	}{
		"no configuration":         {[]string{"ingress"}, "--config"},
		"no such directory":        {[]string{"ingress", "--config", b.files.Dir + "/nowhere"}, "there is no such directory or file"},
		"a file of no agent":       {[]string{"ingress", "--config", notes}, "notes.txt"},
		"an argument too many":     {[]string{"ingress", "--config", b.edge.Dir(), "x"}, "x"},
		"no such mesh file":        {[]string{"ingress", "--config", b.edge.Dir(), "--mesh", b.files.Dir + "/nowhere"}, "nowhere"},
		"an identity that is none": {[]string{"ingress", "--config", b.edge.Dir(), "--identity", "web", "--check"}, "identity"},
		"a format that is none":    {[]string{"ingress", "--config", b.edge.Dir(), "--access-log", "%NO_SUCH%", "--check"}, "NO_SUCH"},
	} {
		out, said, code := adit(t, b.Edge, tt.args...)
		if code != 2 || !strings.Contains(said, tt.says) || strings.Contains(said, "panic") {
			t.Errorf("%s: exit %d, want 2 and a word of %q:\n%s%s", why, code, tt.says, out, said)
		}
	}

	b.simple(t)
	if out, said, code := adit(t, b.Edge, "ingress", "--config", b.edge.Dir(), "--check"); code != 0 || !strings.Contains(out, "ok") {
		t.Errorf("--check of a good directory: exit %d\n%s%s", code, out, said)
	}
	b.put(t, "bad.yaml", `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: bad}
spec:
  parentRefs: [{name: edge}]
  rules:
  - matches: [{path: {tpe: Exact, value: /x}}]
`)
	out, said, code := adit(t, b.Edge, "ingress", "--config", b.edge.Dir(), "--check")
	if code != 2 || !strings.Contains(said, "bad.yaml:7") || !strings.Contains(said, "tpe") {
		t.Errorf("--check of a field that does not exist: exit %d, want 2, the file, the line and the field:\n%s%s", code, out, said)
	}

	// The rest is served meanwhile, and the mistake is shown.
	app(t, b.Web, testbed.Echo("web"))
	b.run(t)
	if _, _, err := seen(t.Context(), b.client(t, edgeclient.HTTP3), "https://www.example.com/"); err != nil {
		t.Error(err)
	}
	out, said, code = adit(t, b.Edge, "status", "gateways")
	if code != 0 || !strings.Contains(out, "default/edge") || !strings.Contains(out, "serving") || !strings.Contains(out, "bad.yaml") {
		t.Errorf("adit status gateways: exit %d, want 0, the Gateway, HTTP/3 and the bad file:\n%s%s", code, out, said)
	}
	for why, tt := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"served":                {[]string{"https://www.example.com/cart", "-H", "env: canary"}, 0, []string{"HTTPRoute/default/www", "default/web:80", "10.244.2.2:8080"}},
		"as JSON":               {[]string{"https://www.example.com/", "-o", "json"}, 0, []string{`"HTTPRoute/default/www"`}},
		"no such port":          {[]string{"https://www.example.com:8443/"}, 3, []string{"8443"}},
		"no URL":                {[]string{"https://"}, 3, nil},
		"a flag of a request":   {[]string{"default/a", "default/b:80", "-X", "POST"}, 2, []string{"-X"}},
		"a header that is none": {[]string{"https://www.example.com/", "-H", "env"}, 2, []string{"NAME: VALUE"}},
	} {
		out, said, code := adit(t, b.Edge, append([]string{"why"}, tt.args...)...)
		for _, s := range tt.says {
			if !strings.Contains(out+said, s) {
				t.Errorf("adit why, %s: %q is missing in\n%s%s", why, s, out, said)
			}
		}
		if code != tt.code {
			t.Errorf("adit why, %s: exit %d, want %d\n%s%s", why, code, tt.code, out, said)
		}
	}
	if out, said, code := adit(t, b.Client, "status", "gateways"); code != 1 {
		t.Errorf("adit status gateways where there is no edge: exit %d, want 1\n%s%s", code, out, said)
	}
	// The port is taken: the second edge says so, and the first goes on.
	out, said, code = adit(t, b.Edge, "ingress", "--config", b.edge.Dir())
	if code == 0 || !strings.Contains(said, "15000") {
		t.Errorf("a second edge in one place: exit %d, want an error that names the port in use\n%s%s", code, out, said)
	}
	if _, _, err := seen(t.Context(), b.client(t, edgeclient.HTTP2), "https://www.example.com/"); err != nil {
		t.Error(err)
	}
}

// paused is an application whose answers begin, and end when they may.
func paused(end <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-end:
			_, _ = io.WriteString(w, ", and ended")
		case <-r.Context().Done():
		}
	})
}

// SIGTERM lets what is under way end, on every version, and takes nothing new; on
// connections that are open, either.
func TestIngressDrains(t *testing.T) {
	b := newBorder(t)
	b.simple(t)
	end := make(chan struct{})
	app(t, b.Web, paused(end))
	b.run(t)
	type flight struct {
		v    edgeclient.Version
		c    *edgeclient.Client
		body io.ReadCloser
	}
	var flights []flight
	for _, v := range edgeclient.Versions {
		c := b.client(t, v)
		res, err := c.Client.Get("https://www.example.com/")
		if err != nil {
			t.Fatal(v, err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		if _, err := io.ReadFull(res.Body, make([]byte, len("begun"))); err != nil {
			t.Fatal(v, err)
		}
		flights = append(flights, flight{v, c, res.Body})
	}
	if err := b.edge.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for _, v := range edgeclient.Versions {
		eventually(t, func() error {
			c := edgeclient.New(b.target(443), v)
			defer c.Close()
			ctx, cancel := contextOf(t, time.Second)
			defer cancel()
			if res, err := c.Do(mustRequest(ctx, "https://www.example.com/")); err == nil {
				_ = res.Body.Close()
				return fmt.Errorf("a new connection by %s is served: %s", v, res.Status)
			}
			return nil
		})
	}
	if _, err := testbed.HTTPFrom(b.Edge).Get(testbed.ReadyURL); err != nil {
		t.Errorf("nobody says any more that the edge is not ready: %v", err)
	} else if _, err := b.edge.Get(t.Context(), testbed.ReadyURL); err == nil {
		t.Error("an edge that drains calls itself ready")
	}
	select {
	case <-b.edge.Done():
		t.Fatal("the edge ends before what is under way does")
	default:
	}
	close(end)
	for _, f := range flights {
		if got, err := io.ReadAll(f.body); err != nil || string(got) != ", and ended" {
			t.Errorf("%s: the answer that was under way ends with %q, %v", f.v, got, err)
		}
	}
	select {
	case <-b.edge.Done():
		if err := b.edge.Wait(); err != nil {
			t.Errorf("after SIGTERM: %v", err)
		}
	case <-time.After(patience):
		t.Error("the edge does not end when nothing is under way any more")
	}
}

// A second signal does not wait.
func TestIngressEndsAtTheSecondSignal(t *testing.T) {
	b := newBorder(t)
	b.simple(t)
	app(t, b.Web, paused(nil))
	b.run(t)
	res, err := b.client(t, edgeclient.HTTP2).Client.Get("https://www.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if err := b.edge.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := b.edge.Get(t.Context(), testbed.ReadyURL); err == nil {
			return errors.New("the edge is still ready")
		}
		return nil
	})
	eventually(t, func() error { // signals that come together are one
		if err := b.edge.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-b.edge.Done():
			return nil
		default:
			return errors.New("the edge does not end")
		}
	})
	if exit := new(exec.ExitError); !errors.As(b.edge.Wait(), &exit) || exit.ExitCode() != 130 {
		t.Errorf("it ends with %v, want code 130", b.edge.Wait())
	}
}
