package demo

import (
	"context"
	"fmt"
	"strings"
	"time"
)

func (d *demo) sameNodeByTunnel(ctx context.Context) error {
	d.step("Between pods of one node: by tunnel, which is the default")
	return d.askNeighbour(ctx, func(e evidence) {
		d.check(e.records > 0 && e.notTLS == 0, "TLS between the two pods' interfaces", "%d records for port %d on the link of server-a", e.records, hbonePort)
	})
}

func (d *demo) sameNodeDirect(ctx context.Context) error {
	d.step("Between pods of one node: direct, where no NetworkPolicy needs to see it")
	d.does("node-a: agent stopped with SIGTERM, started again with sameNode: direct")
	if err := d.nodeA.agent.stop(); err != nil {
		return err
	}
	took, err := d.nodeA.agent.start(ctx, "direct")
	if err != nil {
		return err
	}
	d.check(true, "the agent is ready again", "%d ms after its start", took.Milliseconds())
	err = d.askNeighbour(ctx, func(e evidence) {
		d.check(e.records == 0 && e.plain == 0, "nothing crosses the pods' interfaces", "%d TLS records, %d bytes in clear on the link of server-a", e.records, e.plain)
	})
	if err != nil {
		return err
	}
	offset := d.nodeA.agent.logOffset()
	got, asked := d.intruder.ask(ctx, url(d.serverA.v4, appPort), d.secret())
	d.check(asked != nil, "policy is the same: the intruder is refused", "%s", refusal(got, asked))
	line, err := d.nodeA.agent.logged(ctx, offset, func(e entry) bool {
		return e.get("src.identity") == d.intruder.identity() && e.get("error") != ""
	})
	if err == nil {
		d.quote(d.nodeA.name, line.brief("src.workload", "src.identity", "dst.addr", "error"))
	}
	return ctx.Err()
}

// askNeighbour sends the client's request to the server on its own node, and
// hands the evidence from that server's link to judge.
func (d *demo) askNeighbour(ctx context.Context, judge func(evidence)) error {
	token, to := d.secret(), url(d.serverA.v4, appPort)
	offset := d.nodeA.agent.logOffset()
	d.does("client: GET %s/?%s", to, token)
	e, err := during(ctx, d.nodeA.ns, d.serverA.name, token, func(ctx context.Context) error {
		got, err := d.client.ask(ctx, to, token)
		d.checkAnswer("the request is answered", got, err, d.serverA, d.client.v4, token)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	judge(e)
	d.check(e.exposed == 0 && e.streams == 0, "the secret is not on the link either way", "%d of %d frames", e.exposed, e.frames)
	for _, direction := range []string{"outbound", "inbound"} {
		line, err := d.nodeA.agent.logged(ctx, offset, func(e entry) bool {
			return e.get("direction") == direction && e.get("src.identity") == d.client.identity() &&
				e.get("dst.identity") == d.serverA.identity() && e.get("error") == ""
		})
		if err != nil {
			d.check(false, "the "+direction+" side is in the log", "%s", err)
			continue
		}
		d.check(true, "the "+direction+" side is in the log", "%s → %s", d.client.identity(), d.serverA.identity())
		d.quote(d.nodeA.name, line.brief("direction", "src.addr", "dst.addr", "dst.hbone_addr"))
	}
	return nil
}

// agentDies kills the client's agent, and looks at what its pods can still do:
// nothing, rather than anything in the clear.
func (d *demo) agentDies(ctx context.Context) error {
	d.step("An agent killed with -9: its pods fall silent, not into plaintext")
	token := d.secret()
	targets := []string{url(d.serverB.v4, appPort), url(d.serverB.v6, appPort), url(serviceVIP, servicePort), url(d.serverA.v4, appPort)}
	near, err := newWatch(d.nodeA.ns, d.client.name)
	if err != nil {
		return err
	}
	defer near.sniffer.Close()
	d.does("kill -9 %d   (the agent of node-a)", d.nodeA.agent.process.Cmd.Process.Pid)
	var answered int
	refused := make(map[string]int)
	e, err := during(ctx, d.nodeA.ns, "eth0", token, func(ctx context.Context) error {
		d.nodeA.agent.process.Kill()
		for range 3 {
			for _, to := range targets {
				if _, err := d.client.ask(ctx, to, token); err != nil {
					refused[lastPart(brief(err))]++
				} else {
					answered++
				}
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	tries := 3 * len(targets)
	var how []string
	for reason, n := range refused {
		how = append(how, fmt.Sprintf("%d × %s", n, reason))
	}
	d.check(answered == 0, "no request gets through meanwhile", "%d tries, 4 destinations: %s", tries, strings.Join(how, ", "))
	d.check(e.plain == 0 && e.exposed == 0 && e.streams == 0, "nothing leaks between the nodes", "%d frames, %d bytes in clear", e.frames, e.plain)
	n, err := near.finish(token)
	if err != nil {
		return err
	}
	d.check(n.plain == 0 && n.exposed == 0 && n.streams == 0, "nor from the client's own interface", "%d frames, %d bytes in clear", n.frames, n.plain)

	began := time.Now()
	took, err := d.nodeA.agent.start(ctx, "hbone")
	if err != nil {
		return err
	}
	d.does("node-a: the agent is started again")
	d.check(true, "it takes over what it finds", "ready %d ms after its start", took.Milliseconds())
	got, err := d.client.ask(ctx, targets[0], token)
	d.checkAnswer("new connections are served", got, err, d.serverB, d.client.v4, token)
	if err == nil {
		d.does("served again %d ms after the start", time.Since(began).Milliseconds())
	}
	return ctx.Err()
}

// lastPart is the operating system's own words at the end of a network error.
func lastPart(s string) string {
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return s[i+2:]
	}
	return s
}

// wholeRunWasSealed looks at the link once more, from the first agent on.
func (d *demo) wholeRunWasSealed(context.Context) error {
	d.step("The whole run, on the link, since the agents came")
	if err := d.whole.flush(); err != nil {
		return err
	}
	frames := d.whole.sniffer.Frames()
	exposed := 0
	for _, token := range d.tokens {
		e := examine(frames, []byte(token))
		exposed += e.exposed + e.streams
	}
	lost := d.whole.sniffer.Dropped()
	d.check(exposed == 0 && lost == 0, "no secret of any step was seen", "%d secrets, %d frames, %d lost", len(d.tokens), len(frames), lost)
	return nil
}
