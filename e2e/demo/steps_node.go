package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/testbed"
)

func (d *demo) sameNodeByTunnel(ctx context.Context) error {
	d.Step("Between pods of one node: by tunnel, which is the default")
	return d.askNeighbour(ctx, func(e evidence.Traffic) {
		d.Check(e.Records > 0 && e.NotTLS == 0, "TLS between the two pods' interfaces", "%d records for port %d on the link of server-a", e.Records, evidence.HBONEPort)
	})
}

func (d *demo) sameNodeDirect(ctx context.Context) error {
	d.Step("Between pods of one node: direct, where no NetworkPolicy needs to see it")
	d.Does("node-a: agent stopped with SIGTERM, started again with sameNode: direct")
	if err := d.agentA.Stop(); err != nil {
		return err
	}
	took, err := d.agentA.Start(ctx, testbed.Settings{SameNode: "direct"})
	if err != nil {
		return err
	}
	d.Check(true, "the agent is ready again", "%d ms after its start", took.Milliseconds())
	err = d.askNeighbour(ctx, func(e evidence.Traffic) {
		d.Check(e.Records == 0 && e.Plain == 0, "nothing crosses the pods' interfaces", "%d TLS records, %d bytes in clear on the link of server-a", e.Records, e.Plain)
	})
	if err != nil {
		return err
	}
	offset := d.agentA.LogOffset()
	got, asked := ask(ctx, d.Intruder.NS, url(d.ServerA.V4, testbed.AppPort), d.secret())
	d.Check(asked != nil, "the same policy refuses the intruder", "%s", refusal(got, asked))
	line, err := d.agentA.Logged(ctx, offset, func(e testbed.Entry) bool {
		return e.Get("src.identity") == d.Intruder.Identity() && e.Get("error") != ""
	})
	if err == nil {
		d.Quote(d.NodeA.Name, line.Brief("src.identity", "dst.addr", "response_flags", "error"))
	}
	return ctx.Err()
}

// askNeighbour sends the client's request to the server on its own node, and
// hands the evidence from that server's link to judge.
func (d *demo) askNeighbour(ctx context.Context, judge func(evidence.Traffic)) error {
	token, to := d.secret(), url(d.ServerA.V4, testbed.AppPort)
	offset := d.agentA.LogOffset()
	d.Does("client: GET %s/?%s", to, token)
	e, err := evidence.During(ctx, d.NodeA.NS, d.ServerA.Name, token, func(ctx context.Context) error {
		got, err := ask(ctx, d.Client.NS, to, token)
		d.checkAnswer("the request is answered", got, err, d.ServerA, d.Client.V4, token)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	judge(e)
	d.Check(e.Exposed == 0 && e.Streams == 0, "the secret is not on the link either way", "%d of %d frames", e.Exposed, e.Frames)
	for _, direction := range []string{"outbound", "inbound"} {
		line, err := d.agentA.Logged(ctx, offset, func(e testbed.Entry) bool {
			return e.Get("direction") == direction && e.Get("src.identity") == d.Client.Identity() &&
				e.Get("dst.identity") == d.ServerA.Identity() && e.Get("error") == ""
		})
		if err != nil {
			d.Check(false, "the "+direction+" side is in the log", "%s", err)
			continue
		}
		d.Check(true, "the "+direction+" side is in the log", "%s → %s", d.Client.Identity(), d.ServerA.Identity())
		d.Quote(d.NodeA.Name, line.Brief("direction", "src.addr", "dst.addr", "dst.hbone_addr", "duration"))
	}
	return nil
}

// agentDies kills the client's agent, and looks at what its pods can still do:
// nothing, rather than anything in the clear.
func (d *demo) agentDies(ctx context.Context) error {
	d.Step("An agent killed with -9: its pods fall silent, not into plaintext")
	token := d.secret()
	targets := []string{url(d.ServerB.V4, testbed.AppPort), url(d.ServerB.V6, testbed.AppPort), url(testbed.ServiceVIP, testbed.ServicePort), url(d.ServerA.V4, testbed.AppPort)}
	near, err := evidence.NewWatch(d.NodeA.NS, d.Client.Name)
	if err != nil {
		return err
	}
	defer near.Sniffer.Close()
	d.Does("kill -9 %d   (the agent of node-a)", d.agentA.PID())
	var answered int
	refused := make(map[string]int)
	e, err := evidence.During(ctx, d.NodeA.NS, "eth0", token, func(ctx context.Context) error {
		d.agentA.Kill()
		for range 3 {
			for _, to := range targets {
				if _, err := ask(ctx, d.Client.NS, to, token); err != nil {
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
	got, reached := ask(ctx, d.NodeA.NS, url(d.ServerA.V4, testbed.AppPort), "nobody")
	tries := 3 * len(targets)
	var how []string
	for reason, n := range refused {
		how = append(how, fmt.Sprintf("%d × %s", n, reason))
	}
	d.Check(answered == 0, "no request gets through meanwhile", "%d tries, 4 destinations: %s", tries, strings.Join(how, ", "))
	d.Check(reached != nil, "nor does anybody reach its servers", "node-a → server-a: %s", lastPart(refusal(got, reached)))
	d.Check(e.Plain == 0 && e.Exposed == 0 && e.Streams == 0, "nothing leaks between the nodes", "%d frames, %d bytes in clear", e.Frames, e.Plain)
	n, err := near.Finish(token)
	if err != nil {
		return err
	}
	d.Check(n.Plain == 0 && n.Exposed == 0 && n.Streams == 0, "nor from the client's own interface", "%d frames, %d bytes in clear", n.Frames, n.Plain)

	began := time.Now()
	took, err := d.agentA.Start(ctx, testbed.Settings{})
	if err != nil {
		return err
	}
	d.Does("node-a: the agent is started again")
	d.Check(true, "it takes over what it finds", "ready %d ms after its start", took.Milliseconds())
	got, err = ask(ctx, d.Client.NS, targets[0], token)
	d.checkAnswer("new connections are served", got, err, d.ServerB, d.Client.V4, token)
	if err == nil {
		d.Does("served again %d ms after the start", time.Since(began).Milliseconds())
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
	d.Step("The whole run, on the link, since the agents came")
	if err := d.whole.Flush(); err != nil {
		return err
	}
	frames := d.whole.Sniffer.Frames()
	exposed := 0
	for _, token := range d.tokens {
		e := evidence.Examine(frames, []byte(token))
		exposed += e.Exposed + e.Streams
	}
	lost := d.whole.Sniffer.Dropped()
	d.Check(exposed == 0 && lost == 0, "no secret of any step was seen", "%d secrets, %d frames, %d lost", len(d.tokens), len(frames), lost)
	return nil
}
