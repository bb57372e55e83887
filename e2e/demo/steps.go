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
	"path/filepath"
	"syscall"
	"time"
)

// ask sends one request with a token, on a connection of its own.
func (p *pod) ask(ctx context.Context, base, token string) (answer, error) {
	return askFrom(ctx, httpFrom(p.ns), base, token)
}

func askFrom(ctx context.Context, client *http.Client, base, token string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// In the path as well as in a header: both halves of a request count.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/?"+token, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("X-Token", token)
	res, err := client.Do(req)
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
func (d *demo) checkAnswer(claim string, a answer, err error, want *pod, from netip.Addr, token string) {
	switch {
	case err != nil:
		d.check(false, claim, "%s", brief(err))
	case a.Pod != want.name || a.Echo != token:
		d.check(false, claim, "answered by %q with %q", a.Pod, a.Echo)
	default:
		d.check(true, claim, "200 from %s", a.Pod)
		peer, _ := netip.ParseAddrPort(a.RemoteAddr)
		d.check(peer.Addr().Unmap() == from, "the server saw the client's own address", "%s says its peer is %s", a.Pod, a.RemoteAddr)
	}
}

// plaintextIsReadable is the control: what the capture can find, when there is
// something to find.
func (d *demo) plaintextIsReadable(ctx context.Context) error {
	d.step("Without adit the request can be read on the link")
	for _, p := range d.pods {
		if p.serves {
			if err := p.startServer(ctx, d.Binary); err != nil {
				return err
			}
		}
	}
	token, to := newToken(), url(d.serverB.v4, appPort)
	d.does("client: GET %s/?%s", to, token)
	var got answer
	var asked error
	e, err := during(ctx, d.nodeA.ns, "eth0", token, func(ctx context.Context) error {
		got, asked = d.client.ask(ctx, to, token)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	d.checkAnswer("the request is answered", got, asked, d.serverB, d.client.v4, token)
	d.check(e.exposed > 0, "the capture finds the secret in clear", "in %d of %d frames, first in number %d: so it would find a leak", e.exposed, e.frames, e.firstFrame)

	d.open, err = openTicks(ctx, httpFrom(d.client.ns), to)
	if err != nil {
		return fmt.Errorf("open a stream to keep through the enrolment: %w", err)
	}
	return d.open.advance(ctx, 2)
}

func (d *demo) agentsEnrol(ctx context.Context) error {
	d.step("An agent on each node takes the running pods into the mesh")
	world := filepath.Join(d.Dir, "world.yaml")
	if err := os.WriteFile(world, []byte(worldFile(d.network)), 0o644); err != nil {
		return err
	}
	for _, n := range d.nodes {
		n.agent = newAgent(d.Binary, d.Dir, n)
		d.does("%s: env -i %s agent --config %s", n.name, d.Binary, agentConfigPath(d.Dir, n))
		took, err := n.agent.start(ctx, "hbone")
		if err != nil {
			return err
		}
		d.check(true, "the agent is ready", "%s: process %d, %d ms after its start", n.name, n.agent.process.Cmd.Process.Pid, took.Milliseconds())
	}
	before := d.open.last.Load()
	err := d.open.advance(ctx, 4)
	if err != nil {
		d.check(false, "a connection older than the agents goes on", "%s", brief(err))
	} else {
		d.check(true, "a connection older than the agents goes on", "tick %d before, %d now, none missing", before, d.open.last.Load())
	}
	// It is plaintext still: nothing can change that but closing it.
	err = d.open.Close()
	d.open = nil
	if err != nil {
		d.check(false, "and ends when the client ends it", "%s", brief(err))
	}
	d.whole, err = newWatch(d.nodeA.ns, "eth0")
	return err
}

func (d *demo) secret() string {
	token := newToken()
	d.tokens = append(d.tokens, token)
	return token
}

func (d *demo) requestsWork(ctx context.Context) error {
	d.step("The same request now goes through the mesh, and nobody configured a proxy")
	token := d.secret()
	fromA, fromB := d.nodeA.agent.logOffset(), d.nodeB.agent.logOffset()
	e, err := during(ctx, d.nodeA.ns, "eth0", token, func(ctx context.Context) error {
		for _, r := range []struct {
			what string
			to   string
			from netip.Addr
		}{
			{"IPv4", url(d.serverB.v4, appPort), d.client.v4},
			{"IPv6", url(d.serverB.v6, appPort), d.client.v6},
			{"service", url(serviceVIP, servicePort), d.client.v4},
		} {
			d.does("client: GET %s/?%s", r.to, token)
			got, err := d.client.ask(ctx, r.to, token)
			d.checkAnswer("the request is answered, "+r.what, got, err, d.serverB, r.from, token)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}

	d.step("Each side verified who the other is")
	d.checkIdentities(ctx, d.nodeA, fromA, "outbound", "the client's agent verified the server", "dst.identity", d.serverB.identity())
	d.checkIdentities(ctx, d.nodeB, fromB, "inbound", "the server's agent verified the client", "src.identity", d.client.identity())

	d.step("On the link there is TLS, and none of the request's bytes")
	d.does("capture on eth0 of node-a during the step before last: %d frames", e.frames)
	d.check(e.records > 0 && e.tunnel > 0 && e.notTLS == 0, "port 15008 carries TLS records and nothing else", "%d records in %d segments", e.records, e.tunnel)
	d.check(e.plain == 0, "no other TCP port carries anything", "%d bytes of payload outside port %d", e.plain, hbonePort)
	d.check(e.exposed == 0 && e.streams == 0, "the secret is in no frame and no stream", "%s: %d of %d frames", token, e.exposed, e.frames)
	return nil
}

// checkIdentities looks for the access-log line in which an agent states whom
// it verified.
func (d *demo) checkIdentities(ctx context.Context, n *node, offset int64, direction, claim, field, id string) {
	line, err := n.agent.logged(ctx, offset, func(e entry) bool {
		return e.get("direction") == direction && e.get(field) == id && e.get("error") == ""
	})
	if err != nil {
		d.check(false, claim, "want %s=%s: %s", field, id, err)
		return
	}
	d.check(true, claim, "%s", id)
	d.quote(n.name, line.brief("direction", "src.addr", "src.identity", "dst.addr", "dst.hbone_addr", "dst.identity"))
}

func (d *demo) outsidersAreRefused(ctx context.Context) error {
	d.step("Policy refuses whoever is not named in it")
	to := url(d.serverB.v4, appPort)
	offset := d.nodeB.agent.logOffset()
	d.does("intruder: GET %s/", to)
	got, err := d.intruder.ask(ctx, to, d.secret())
	d.check(err != nil, "the intruder gets no answer", "%s", refusal(got, err))
	d.check(errors.Is(err, syscall.ECONNRESET), "and knows it: a reset, not a clean end", "%s", refusal(got, err))

	line, err := d.nodeB.agent.logged(ctx, offset, func(e entry) bool {
		return e.get("src.identity") == d.intruder.identity() && e.get("error") != ""
	})
	if err != nil {
		d.check(false, "the refusal is in the log", "%s", err)
	} else {
		d.check(true, "the refusal is in the log", "%s", line.get("error"))
		d.quote(d.nodeB.name, line.brief("src.workload", "src.identity", "dst.addr", "error"))
	}

	value, series, err := d.nodeB.agent.metric(ctx, "istio_tcp_connections_failed_total", map[string]string{
		"reporter":         "destination",
		"source_principal": d.intruder.identity(),
		"response_flags":   "DENY",
	})
	d.check(err == nil && value >= 1, "and in the metrics", "istio_tcp_connections_failed_total = %v", value)
	if series != "" {
		d.quote(d.nodeB.name, series)
	}

	d.does("node-a itself, which is in no mesh: GET %s/", to)
	offset = d.nodeB.agent.logOffset()
	got, err = askFrom(ctx, httpFrom(d.nodeA.ns), to, "nobody")
	d.check(err != nil, "plaintext without an identity is refused", "%s", refusal(got, err))
	if line, err = d.nodeB.agent.logged(ctx, offset, func(e entry) bool { return e.get("error") != "" && e.get("src.identity") == "" }); err == nil {
		d.quote(d.nodeB.name, line.brief("src.addr", "dst.addr", "error"))
	}
	return ctx.Err()
}

func refusal(got answer, err error) string {
	if err == nil {
		return fmt.Sprintf("200 from %s", got.Pod)
	}
	return brief(err)
}

func (d *demo) certificateRotates(ctx context.Context) error {
	d.step("Certificates rotate under an open connection")
	stream, err := openTicks(ctx, httpFrom(d.client.ns), url(d.serverB.v4, appPort))
	if err != nil {
		d.check(false, "a stream opens", "%s", brief(err))
		return ctx.Err()
	}
	if err := stream.advance(ctx, 4); err != nil {
		_ = stream.Close()
		d.check(false, "a stream flows", "%s", brief(err))
		return ctx.Err()
	}
	before := stream.last.Load()
	for _, side := range []struct {
		node *node
		pod  *pod
	}{{d.nodeA, d.client}, {d.nodeB, d.serverB}} {
		if err := d.rotateOne(ctx, side.node.agent, side.pod.identity()); err != nil {
			_ = stream.Close()
			return err
		}
	}
	// New tunnels and old streams alike have to live with the change.
	token := d.secret()
	got, asked := d.client.ask(ctx, url(d.serverB.v6, appPort), token)
	d.check(asked == nil && got.Echo == token, "a new connection works", "%s", refusal(got, asked))
	err = stream.advance(ctx, 8)
	after, conn := stream.last.Load(), stream.conn.Load()
	if closed := stream.Close(); err == nil {
		err = closed
	}
	if err != nil {
		d.check(false, "the open stream never noticed", "%s", brief(err))
	} else {
		d.check(true, "the open stream never noticed", "connection %d of the server: tick %d before, %d after, none missing", conn, before, after)
	}
	return ctx.Err()
}

func (d *demo) rotateOne(ctx context.Context, a *agent, id string) error {
	old, err := a.serial(ctx, id)
	if err != nil {
		return err
	}
	d.does("%s: POST %s/certificates/rotate?id=%s", a.node.name, adminURL, id)
	if err := a.rotate(ctx, id); err != nil {
		d.check(false, "a new certificate is in use", "%s", brief(err))
		return ctx.Err()
	}
	fresh, err := a.serial(ctx, id)
	if err != nil {
		return err
	}
	d.check(fresh != old, "a new certificate is in use", "serial %s → %s", short(old), short(fresh))
	return nil
}

// short keeps the end of a serial number: the start is where they look alike.
func short(serial string) string {
	if len(serial) <= 12 {
		return serial
	}
	return "…" + serial[len(serial)-12:]
}
