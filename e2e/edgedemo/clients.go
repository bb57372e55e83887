package edgedemo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// sight is what one client saw, and what the pod saw of its request.
type sight struct {
	client   string
	protocol string // as the client says
	status   int
	header   map[string]string // of the answer, names in lower case
	pod      testbed.Seen
}

// run executes a program inside ns and returns what it writes to its standard
// output.
func run(ctx context.Context, ns *lab.Namespace, program string, args ...string) (string, error) {
	stdout, _, err := runBoth(ctx, ns, program, args...)
	return stdout, err
}

// runBoth is run that returns what is written to standard error as well.
func runBoth(ctx context.Context, ns *lab.Namespace, program string, args ...string) (string, string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p, err := ns.Start(cmd)
	if err != nil {
		return "", "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
	}
	if err := p.Wait(); err != nil {
		return stdout.String(), stderr.String(), fmt.Errorf("%s: %w: %s", program, err, lastLine(stderr.String()))
	}
	return stdout.String(), stderr.String(), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// curl asks by the option that names a version.
func (d *demo) curl(ctx context.Context, version, url string) (sight, error) {
	body := filepath.Join(d.Dir, "curl.body")
	out, err := run(ctx, d.Client, "curl", "-sS", version, "--cacert", d.rootFile(), "--resolve", fmt.Sprintf("%s:443:%s", name, d.Outside),
		"--max-time", "10", "-o", body, "-w", "%{http_version}\n%{response_code}\n%{header_json}", url)
	if err != nil {
		return sight{}, err
	}
	parts := strings.SplitN(out, "\n", 3)
	if len(parts) != 3 {
		return sight{}, fmt.Errorf("curl says %q", out)
	}
	s := sight{client: "curl " + version, protocol: "HTTP/" + parts[0], header: make(map[string]string)}
	if s.status, err = strconv.Atoi(parts[1]); err != nil {
		return s, fmt.Errorf("curl says the status is %q", parts[1])
	}
	var headers map[string][]string
	if err := json.Unmarshal([]byte(parts[2]), &headers); err != nil {
		return s, err
	}
	for k, v := range headers {
		s.header[strings.ToLower(k)] = strings.Join(v, ", ")
	}
	return s, s.readBody(body)
}

func (s *sight) readBody(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &s.pod); err != nil {
		return fmt.Errorf("%s got %.200q", s.client, raw)
	}
	return nil
}

// gtlsHeader is a header of an answer, as gtlsclient prints it.
var gtlsHeader = regexp.MustCompile(`^http: stream 0x0 \[([a-z0-9:-]+): (.*)\]$`)

// gtlsclient is ngtcp2's client, with nghttp3 for HTTP/3: no code of ours.
func (d *demo) gtlsclient(ctx context.Context, path string) (sight, error) {
	dir, err := os.MkdirTemp(d.Dir, "gtlsclient-")
	if err != nil {
		return sight{}, err
	}
	defer os.RemoveAll(dir)
	_, out, err := runBoth(ctx, d.Client, "gtlsclient", "--no-quic-dump", "--exit-on-all-streams-close", "--download="+dir, "--sni="+name,
		d.Outside.String(), "443", "https://"+name+path)
	s := sight{client: "gtlsclient", header: make(map[string]string)}
	for line := range strings.Lines(out) {
		if m := gtlsHeader.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			s.header[m[1]] = m[2]
		}
	}
	if err != nil {
		return s, err
	}
	if s.status, err = strconv.Atoi(s.header[":status"]); err != nil {
		return s, fmt.Errorf("gtlsclient prints no status: %.300q", out)
	}
	s.protocol = "HTTP/3" // it speaks no other
	return s, s.readBody(filepath.Join(dir, filepath.Base(path)))
}

// own asks by a client of ours: net/http's, x/net/http2's or quic-go's.
func (d *demo) own(ctx context.Context, v edgeclient.Version, path string) (sight, error) {
	c := edgeclient.New(d.target, v)
	defer c.Close()
	s := sight{client: map[edgeclient.Version]string{edgeclient.HTTP1: "net/http", edgeclient.HTTP2: "x/net/http2", edgeclient.HTTP3: "quic-go"}[v], header: make(map[string]string)}
	a, err := c.Get(ctx, "https://"+name+path)
	if err != nil {
		return s, err
	}
	s.protocol, s.status = a.Proto, a.StatusCode
	for k := range a.Header {
		s.header[strings.ToLower(k)] = a.Header.Get(k)
	}
	if err := json.Unmarshal(a.Content, &s.pod); err != nil {
		return s, errors.New(a.Status + ": " + string(a.Content))
	}
	return s, nil
}
