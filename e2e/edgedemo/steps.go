package edgedemo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// secret is what a request hides in its path.
func (d *demo) secret() string {
	token := evidence.NewToken()
	d.secrets = append(d.secrets, token)
	return token
}

func (d *demo) startsFromADirectory(ctx context.Context) error {
	d.Step("An edge out of a directory of YAML, a node's agent, and two pods that know of neither")
	for _, p := range []*testbed.Pod{d.Web, d.Next} {
		stop, err := testbed.Serve(p.NS, fmt.Sprintf(":%d", testbed.AppPort), pod(p.Name, d.end))
		if err != nil {
			return err
		}
		d.stops = append(d.stops, stop)
	}
	leaf, err := d.root.Issue(name)
	if err != nil {
		return err
	}
	for _, write := range []func() error{
		func() error { return testbed.WriteCertificate(d.certificates(), "www", leaf) },
		func() error { return os.WriteFile(d.rootFile(), d.root.PEM(), 0o644) },
		func() error {
			return os.WriteFile(d.files.World(), []byte(d.World(testbed.OnlyEdge, d.Web, d.Next)), 0o644)
		},
		func() error { return d.edge.Put("site.yaml", site(d.EdgeNetwork, d.certificates())) },
		func() error { return d.edge.Put("routes.yaml", routes(1, 0, "")) },
	} {
		if err := write(); err != nil {
			return err
		}
	}
	if d.whole, err = evidence.NewWatch(d.Edge, "eth1"); err != nil {
		return err
	}
	d.Does("node: env -i %s agent --config %s", d.Binary, d.files.Config(d.Node))
	took, err := d.agent.Start(ctx, testbed.Settings{})
	if err != nil {
		return err
	}
	d.Check(true, "the agent is ready", "process %d, %d ms after its start", d.agent.PID(), took.Milliseconds())
	d.Does("edge: env -i %s %s", d.Binary, strings.Join(d.edge.Args(), " "))
	if took, err = d.edge.Start(ctx); err != nil {
		return err
	}
	d.Check(true, "the edge is ready", "process %d, %d ms after its start", d.edge.PID(), took.Milliseconds())
	d.Does("edge: adit status gateways")
	out, err := run(ctx, d.Edge, d.Binary, "status", "gateways")
	if err != nil {
		d.Check(false, "it says what it serves", "%v", err)
		return nil
	}
	for line := range strings.Lines(strings.TrimSpace(out)) {
		d.Quote("adit", line)
	}
	return nil
}

func (d *demo) everyVersionIsServed(ctx context.Context) error {
	d.Step("Every version of HTTP on port 443, and HTTP/3 is announced")
	type client struct {
		program string // that has to be installed
		want    string
		ask     func(path string) (sight, error)
	}
	curl := func(version string) func(string) (sight, error) {
		return func(path string) (sight, error) { return d.curl(ctx, version, "https://"+name+path) }
	}
	own := func(v edgeclient.Version) func(string) (sight, error) {
		return func(path string) (sight, error) { return d.own(ctx, v, path) }
	}
	for _, c := range []client{
		{"curl", "HTTP/1.1", curl("--http1.1")},
		{"curl", "HTTP/2", curl("--http2")},
		{"gtlsclient", "HTTP/3", func(path string) (sight, error) { return d.gtlsclient(ctx, path) }},
		{"", "HTTP/1.1", own(edgeclient.HTTP1)},
		{"", "HTTP/2.0", own(edgeclient.HTTP2)},
		{"", "HTTP/3.0", own(edgeclient.HTTP3)},
	} {
		if c.program != "" {
			if _, err := exec.LookPath(c.program); err != nil {
				d.missing = append(d.missing, fmt.Sprintf("%s over %s, for it is not installed", c.program, c.want))
				continue
			}
		}
		token := d.secret()
		s, err := c.ask("/headers/" + token)
		if err != nil {
			d.Check(false, "a client is answered over "+c.want, "%s: %v", s.client, err)
			continue
		}
		d.sights = append(d.sights, s)
		ok := s.status == 200 && s.protocol == c.want && s.pod.Path == "/headers/"+token
		d.Check(ok, fmt.Sprintf("%s, over %s", s.client, s.protocol), "%d from %s, alt-svc: %s, server: %s", s.status, s.pod.Pod, s.header["alt-svc"], s.header["server"])
	}
	announced := func(s sight) bool { return s.header["alt-svc"] == `h3=":443"; ma=86400` }
	d.Check(len(d.sights) > 0 && !slices.ContainsFunc(d.sights, func(s sight) bool { return !announced(s) }),
		"each is told of HTTP/3", `alt-svc: h3=":443"; ma=86400`)
	return ctx.Err()
}

func (d *demo) podKnowsWhoAsked(ctx context.Context) error {
	d.Step("The pod is told who asked, and by whom it was brought")
	if len(d.sights) == 0 {
		return nil
	}
	for _, h := range edgeHeaders(d.sights[len(d.sights)-1].pod.Headers) {
		d.Quote(d.Web.Name, h.Name+": "+h.Value)
	}
	all := func(claim, want string, get func(testbed.Seen) string, instead ...string) {
		for _, s := range d.sights {
			if got := get(s.pod); got != want {
				d.Check(false, claim, "%s: %q, want %q", s.client, got, want)
				return
			}
		}
		if len(instead) > 0 {
			want = instead[0]
		}
		d.Check(true, claim, "%s, for each of %d clients", want, len(d.sights))
	}
	of := func(name string) func(testbed.Seen) string {
		return func(s testbed.Seen) string { return s.Headers.Get(name) }
	}
	all("X-Forwarded-For is the client", d.ClientV4.String(), of("X-Forwarded-For"))
	all("X-Forwarded-Proto is that of the URL", "https", of("X-Forwarded-Proto"))
	xfcc := d.sights[0].pod.Headers.Get("X-Forwarded-Client-Cert")
	parts := make(map[string]string)
	for part := range strings.SplitSeq(xfcc, ";") {
		k, v, _ := strings.Cut(part, "=")
		parts[k] = v
	}
	all("X-Forwarded-Client-Cert is the edge's", xfcc, of("X-Forwarded-Client-Cert"), "the same")
	d.Check(parts["By"] == d.Web.Identity(), "the tunnel's far end proved to be the pod", "By=%s", parts["By"])
	d.Check(parts["URI"] == testbed.EdgeIdentity, "its near end proved to be the edge", "URI=%s", parts["URI"])
	d.Check(len(parts["Hash"]) == 64, "with this certificate", "Hash=%s", parts["Hash"])
	all("a request without a body stays one", "false", func(s testbed.Seen) string { return fmt.Sprint(s.Chunked) }, "not chunked")
	ids := make(map[string]bool)
	for _, s := range d.sights {
		ids[s.pod.Headers.Get("X-Request-Id")] = true
	}
	d.Check(len(ids) == len(d.sights) && !ids[""], "each request has a number of its own", "%d different X-Request-Id", len(ids))

	e, err := d.edge.Logged(ctx, 0, func(e testbed.Entry) bool {
		return e.Get("x-request-id") == d.sights[0].pod.Headers.Get("X-Request-Id")
	})
	if err != nil {
		d.Check(false, "which the access log has as well", "%v", err)
		return ctx.Err()
	}
	d.Check(e.Get("response_code") == "200", "which the access log has as well", "%s", e.Brief("method", ":authority", "protocol", "response_code", "upstream_host", "route_name"))
	return ctx.Err()
}

func (d *demo) webSocketsOpen(ctx context.Context) error {
	d.Step("WebSockets over each version: by Upgrade, and by extended CONNECT (RFC 8441, RFC 9220)")
	for _, v := range edgeclient.Versions {
		token := d.secret()
		claim := "a WebSocket over " + string(v)
		ws, err := edgeclient.OpenWebSocket(ctx, d.target, v, "https://"+name+"/ws")
		if err != nil {
			d.Check(false, claim, "%v", err)
			continue
		}
		got, err := ws.Say(token)
		_ = ws.Close()
		if err != nil {
			d.Check(false, claim, "%v", err)
			continue
		}
		d.Check(got == d.Web.Name+" heard "+token, claim, "opened with %d, %q", ws.Opening.StatusCode, got)
	}
	return ctx.Err()
}

// strangersAreRefused shows that the pods take nothing but what the edge brings.
func (d *demo) strangersAreRefused(ctx context.Context) error {
	d.Step("The edge's machine by itself is a stranger to the pods")
	to := fmt.Sprintf("http://%s:%d/", d.Web.V4, testbed.AppPort)
	d.Does("edge: GET %s, without adit", to)
	offset := d.agent.LogOffset()
	_, err := testbed.HTTPFrom(d.Edge).Get(to)
	d.Check(err != nil, "a request in plaintext is refused", "%v", err)
	e, err := d.agent.Logged(ctx, offset, func(e testbed.Entry) bool { return e.Get("error") != "" })
	d.Check(err == nil, "and the node's agent says why", "%s", e.Get("error"))
	return ctx.Err()
}

// nothingButTheTunnel looks at the link behind the edge, from its start on.
func (d *demo) nothingButTheTunnel(context.Context) error {
	d.Step("Between the edge and the node, all this time: port 15008, and nothing else")
	if err := d.whole.Flush(); err != nil {
		return err
	}
	frames := d.whole.Sniffer.Frames()
	e := evidence.Examine(frames, []byte(d.secrets[0]))
	exposed := e.Exposed + e.Streams
	for _, s := range d.secrets[1:] {
		e := evidence.Examine(frames, []byte(s))
		exposed += e.Exposed + e.Streams
	}
	lost := d.whole.Sniffer.Dropped()
	d.Check(e.Records > 0 && e.NotTLS == 0, "port 15008 carries TLS records only", "%d records in %d segments", e.Records, e.Tunnel)
	d.Check(e.Plain == 0 && e.Others == 0, "nothing else carries anything", "%d bytes on other TCP ports, %d frames of anything but TCP, ARP and ICMPv6", e.Plain, e.Others)
	d.Check(exposed == 0 && lost == 0, "no secret of any step was seen", "%d secrets, %d frames, %d lost", len(d.secrets), len(frames), lost)
	return nil
}
