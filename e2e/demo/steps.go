package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// ask sends one request with a token, on a connection of its own.
func ask(ctx context.Context, from *lab.Namespace, base, token string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// In the path as well as in a header: both halves of a request count.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/?"+token, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("X-Token", token)
	res, err := testbed.HTTPFrom(from).Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return answer{}, err
	}
	if res.StatusCode != http.StatusOK {
		return answer{}, errors.New(res.Status)
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return answer{}, fmt.Errorf("%w in %q", err, body)
	}
	return a, nil
}

// checkAnswer states that a request was answered by want, which saw from.
func (d *demo) checkAnswer(claim string, a answer, err error, want *testbed.Pod, from netip.Addr, token string) {
	switch {
	case err != nil:
		d.Check(false, claim, "%s", brief(err))
	case a.Pod != want.Name || a.Echo != token:
		d.Check(false, claim, "answered by %q with %q", a.Pod, a.Echo)
	default:
		d.Check(true, claim, "200 from %s", a.Pod)
		peer, _ := netip.ParseAddrPort(a.RemoteAddr)
		d.Check(peer.Addr().Unmap() == from, "the server saw the client's own address", "%s says its peer is %s", a.Pod, a.RemoteAddr)
	}
}

// plaintextIsReadable is the control: what the capture can find, when there is
// something to find.
func (d *demo) plaintextIsReadable(ctx context.Context) error {
	d.Step("Without adit the request can be read on the link")
	for _, p := range d.Pods {
		if p.Server {
			if err := startServer(ctx, d.Binary, p); err != nil {
				return err
			}
		}
	}
	token, to := evidence.NewToken(), url(d.ServerB.V4, testbed.AppPort)
	d.Does("client: GET %s/?%s", to, token)
	var got answer
	var asked error
	e, err := evidence.During(ctx, d.NodeA.NS, "eth0", token, func(ctx context.Context) error {
		got, asked = ask(ctx, d.Client.NS, to, token)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	d.checkAnswer("the request is answered", got, asked, d.ServerB, d.Client.V4, token)
	d.Check(e.Exposed > 0, "the capture finds the secret in clear", "in %d of %d frames, first in number %d: so it would find a leak", e.Exposed, e.Frames, e.FirstFrame)

	d.open, err = openTicks(ctx, testbed.HTTPFrom(d.Client.NS), to)
	if err != nil {
		return fmt.Errorf("open a stream to keep through the enrolment: %w", err)
	}
	return d.open.advance(ctx, 2)
}

func (d *demo) agentsEnrol(ctx context.Context) error {
	d.Step("An agent on each node takes the running pods into the mesh")
	if err := os.WriteFile(d.files.World(), []byte(d.World(testbed.OnlyClient)), 0o644); err != nil {
		return err
	}
	for _, a := range []*testbed.Agent{d.agentA, d.agentB} {
		d.Does("%s: env -i %s agent --config %s", a.Node.Name, d.Binary, d.files.Config(a.Node))
		took, err := a.Start(ctx, testbed.Settings{})
		if err != nil {
			return err
		}
		d.Check(true, "the agent is ready", "%s: process %d, %d ms after its start", a.Node.Name, a.PID(), took.Milliseconds())
	}
	before := d.open.last.Load()
	err := d.open.advance(ctx, 4)
	if err != nil {
		d.Check(false, "a connection older than the agents goes on", "%s", brief(err))
	} else {
		d.Check(true, "a connection older than the agents goes on", "as it was, unencrypted: tick %d before, %d now, none missing", before, d.open.last.Load())
	}
	if err := d.closeOld(); err != nil {
		return err
	}
	d.whole, err = evidence.NewWatch(d.NodeA.NS, "eth0")
	return err
}

// closeOld ends the stream that is in plaintext, and waits until the last of
// it is off the link, where it would be taken for a leak.
func (d *demo) closeOld() error {
	w, err := evidence.NewWatch(d.NodeA.NS, "eth0")
	if err != nil {
		return err
	}
	defer w.Sniffer.Close()
	err = d.open.Close()
	d.open = nil
	if err != nil {
		d.Check(false, "and ends when the client ends it", "%s", brief(err))
	}
	_, ended := w.Sniffer.WaitFor(5*time.Second, func(f lab.Frame) bool {
		s, ok := f.Segment()
		return ok && (s.Flags&lab.RST != 0 || s.Flags&lab.FIN != 0 && s.Src.Port() == testbed.AppPort)
	})
	if !ended {
		return errors.New("the stream that was opened before the agents does not end")
	}
	return nil
}

func (d *demo) secret() string {
	token := evidence.NewToken()
	d.tokens = append(d.tokens, token)
	return token
}

func (d *demo) requestsWork(ctx context.Context) error {
	d.Step("The same request now goes through the mesh, and nobody configured a proxy")
	token := d.secret()
	fromA, fromB := d.agentA.LogOffset(), d.agentB.LogOffset()
	e, err := evidence.During(ctx, d.NodeA.NS, "eth0", token, func(ctx context.Context) error {
		for _, r := range []struct {
			what string
			to   string
			from netip.Addr
		}{
			{"IPv4", url(d.ServerB.V4, testbed.AppPort), d.Client.V4},
			{"IPv6", url(d.ServerB.V6, testbed.AppPort), d.Client.V6},
			{"service", url(testbed.ServiceVIP, testbed.ServicePort), d.Client.V4},
		} {
			d.Does("client: GET %s/?%s", r.to, token)
			got, err := ask(ctx, d.Client.NS, r.to, token)
			d.checkAnswer("the request is answered, "+r.what, got, err, d.ServerB, r.from, token)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}

	d.Step("Each side verified who the other is")
	d.checkIdentities(ctx, d.agentA, fromA, "outbound", "the client's agent verified the server", "dst.identity", d.ServerB.Identity())
	d.checkIdentities(ctx, d.agentB, fromB, "inbound", "the server's agent verified the client", "src.identity", d.Client.Identity())

	d.Step("On the link there is TLS, and none of the request's bytes")
	d.Does("capture on eth0 of node-a during step 3: %d frames", e.Frames)
	d.Check(e.Records > 0 && e.Tunnel > 0 && e.NotTLS == 0, "port 15008 carries TLS records only", "%d records in %d segments", e.Records, e.Tunnel)
	d.Check(e.Plain == 0, "no other TCP port carries anything", "%d bytes of payload outside port %d", e.Plain, evidence.HBONEPort)
	d.Check(e.Exposed == 0 && e.Streams == 0, "the secret is in no frame and no stream", "%s: %d of %d frames", token, e.Exposed, e.Frames)
	return nil
}

// checkIdentities looks for the access-log line in which an agent states whom
// it verified.
func (d *demo) checkIdentities(ctx context.Context, a *testbed.Agent, offset int64, direction, claim, field, id string) {
	line, err := a.Logged(ctx, offset, func(e testbed.Entry) bool {
		return e.Get("direction") == direction && e.Get(field) == id && e.Get("error") == ""
	})
	if err != nil {
		d.Check(false, claim, "want %s=%s: %s", field, id, err)
		return
	}
	d.Check(true, claim, "%s", id)
	d.Quote(a.Node.Name, line.Brief("src.identity", "dst.identity", "dst.hbone_addr"))
}

func (d *demo) outsidersAreRefused(ctx context.Context) error {
	d.Step("Policy refuses whoever is not named in it")
	to := url(d.ServerB.V4, testbed.AppPort)
	offset := d.agentB.LogOffset()
	d.Does("intruder: GET %s/", to)
	got, err := ask(ctx, d.Intruder.NS, to, d.secret())
	d.Check(errors.Is(err, syscall.ECONNRESET), "the intruder gets a reset, and no answer", "%s", refusal(got, err))

	line, err := d.agentB.Logged(ctx, offset, func(e testbed.Entry) bool {
		return e.Get("src.identity") == d.Intruder.Identity() && e.Get("error") != ""
	})
	if err != nil {
		d.Check(false, "the refusal is in the log", "%s", err)
	} else {
		d.Check(true, "the refusal is in the log", "%s", line.Get("error"))
		d.Quote(d.NodeB.Name, line.Brief("src.addr", "src.identity", "dst.hbone_addr", "response_flags"))
	}

	labels := map[string]string{
		"reporter":         "destination",
		"source_principal": d.Intruder.Identity(),
		"response_flags":   "DENY",
	}
	value, err := d.agentB.Metric(ctx, "istio_tcp_connections_failed_total", labels)
	d.Check(err == nil && value >= 1, "and in the metrics", "istio_tcp_connections_failed_total = %v", value)
	d.Quote(d.NodeB.Name, fmt.Sprintf("{reporter=%q, source_principal=%q, response_flags=%q, …} %v",
		labels["reporter"], labels["source_principal"], labels["response_flags"], value))

	d.Does("node-a itself, which is in no mesh: GET %s/", to)
	offset = d.agentB.LogOffset()
	got, err = ask(ctx, d.NodeA.NS, to, "nobody")
	d.Check(err != nil, "plaintext without an identity is refused", "%s", refusal(got, err))
	if line, err = d.agentB.Logged(ctx, offset, func(e testbed.Entry) bool { return e.Get("error") != "" && e.Get("src.identity") == "" }); err == nil {
		d.Quote(d.NodeB.Name, line.Brief("src.addr", "dst.addr", "error"))
	}
	return ctx.Err()
}

func refusal(got answer, err error) string {
	if err == nil {
		return fmt.Sprintf("200 from %s", got.Pod)
	}
	return brief(err)
}
