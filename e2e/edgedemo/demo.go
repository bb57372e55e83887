package edgedemo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// Options say how to run the demo.
type Options struct {
	Binary   string    // this program, started again as edge and as agent
	Dir      string    // where configuration, logs and the capture go; made and removed
	Pictures string    // where the browser's pictures go, which stay; made
	Out      io.Writer // the report
	Color    bool
	Keep     bool // when all is shown, wait for ctx before cleaning up
	// NoBrowser leaves Chromium out, as if it were not installed.
	NoBrowser bool
}

var (
	// ErrFailed is returned when the demo ran and a claim did not hold.
	ErrFailed = errors.New("the demo ran, and not everything held")
	// ErrInterrupted is returned when ctx ended before everything was shown.
	ErrInterrupted = errors.New("the demo was interrupted; everything it made is removed, but for pictures")
)

// nsPrefix is before the names of all namespaces of the demo.
const nsPrefix = "adit-edge-"

// demo is a run in progress. One goroutine owns it.
type demo struct {
	Options
	*testbed.EdgeNetwork
	*evidence.Report
	began   time.Time
	files   testbed.Files
	edge    *testbed.Edge
	agent   *testbed.Agent
	root    *testbed.Root
	target  edgeclient.Target // the edge's HTTPS port
	sights  []sight           // of the first requests
	end     chan struct{}     // closed to let slow answers end
	stops   []func()          // end the pods' applications
	whole   *evidence.Watch   // the link behind the edge, from its start to the end
	secrets []string          // what must never be seen there
	missing []string          // what is not shown, and why
}

// Run builds the network, shows each claim with its evidence, and removes
// everything again: namespaces, processes, files, but for the browser's pictures.
// After a failure the logs and the capture stay, and the report says where. A nil
// error means that every claim that was made held.
func Run(ctx context.Context, o Options) (err error) {
	// The name is free again when the process ends, however it ends.
	lock, err := net.Listen("unix", "@adit-edge-demo")
	if err != nil {
		return errors.New("another adit demo ingress is running on this machine; wait for it or stop it")
	}
	defer lock.Close()
	if err := errors.Join(testbed.Sweep(nsPrefix, "adit", "chrom"), os.RemoveAll(o.Dir)); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(o.Dir, 0o755), os.MkdirAll(o.Pictures, 0o755)); err != nil {
		return err
	}
	l, err := lab.New(nsPrefix)
	if err != nil {
		return err
	}
	d := &demo{
		Options: o, began: time.Now(), end: make(chan struct{}), files: testbed.Files{Dir: o.Dir},
		Report: &evidence.Report{Out: o.Out, Color: o.Color, Ended: func() bool { return ctx.Err() != nil }},
	}
	defer func() { err = d.cleanUp(ctx, l, err) }()
	if d.EdgeNetwork, err = testbed.BuildEdge(l); err != nil {
		return err
	}
	if d.root, err = testbed.NewRoot(); err != nil {
		return err
	}
	d.edge = &testbed.Edge{Binary: o.Binary, NS: d.Edge, Files: d.files}
	d.agent = &testbed.Agent{Binary: o.Binary, Files: d.files, Node: d.Node}
	d.target = edgeclient.Target{NS: d.Client, Addr: netip.AddrPortFrom(d.Outside, 443), Roots: d.root.Pool()}
	return d.run(ctx)
}

func (d *demo) run(ctx context.Context) error {
	d.introduce()
	for _, step := range []func(context.Context) error{
		d.startsFromADirectory,
		d.everyVersionIsServed,
		d.podKnowsWhoAsked,
		d.webSocketsOpen,
		d.browserAsksOverHTTP3,
		d.browserDiscoversHTTP3,
		d.routesChangeUnderLoad,
		d.certificateIsSwapped,
		d.nothingButTheTunnel,
		d.strangersAreRefused,
		d.drains,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil { // claims after it were not made
			return context.Cause(ctx)
		}
	}
	d.Line("")
	for _, m := range d.missing {
		d.Line(d.Paint(evidence.Red, "not shown: ") + m)
	}
	took := time.Since(d.began).Round(100 * time.Millisecond)
	if d.Failed > 0 {
		d.Line(d.Paint(evidence.Red, fmt.Sprintf("%d of %d claims did not hold", d.Failed, d.Passed+d.Failed)) + fmt.Sprintf(" (%s)", took))
		return ErrFailed
	}
	d.Line(d.Paint(evidence.Green, fmt.Sprintf("all %d claims held", d.Passed)) + fmt.Sprintf(" (%s)", took))
	if d.Keep {
		if err := d.invite(ctx); err != nil {
			return err
		}
		<-ctx.Done()
		d.Line("")
	}
	return nil
}

func (d *demo) introduce() {
	d.Line(d.Paint(evidence.Bold, "adit demo ingress: a client outside, an edge, and two pods of the mesh; no Kubernetes"))
	d.Line("")
	d.Line(fmt.Sprintf("    client    %s", d.ClientV4))
	d.Line(fmt.Sprintf("      ║       https://%s is %s", name, d.Outside))
	d.Line(fmt.Sprintf("    edge      %-14s %s", d.Outside, d.Paint(evidence.Dim, testbed.EdgeIdentity)))
	d.Line("      ║       this link is watched by a packet capture from here on")
	d.Line(fmt.Sprintf("    node      %s", d.Node.V4))
	for i, p := range []*testbed.Pod{d.Web, d.Next} {
		d.Line(fmt.Sprintf("      %s %-6s %-14s %s", []string{"├─", "└─"}[i], p.Name, p.V4, d.Paint(evidence.Dim, p.Identity())))
	}
	d.Line("    policy    only the edge may call the pods")
}

// cleanUp removes everything but, after a failure, what explains it.
func (d *demo) cleanUp(ctx context.Context, l *lab.Lab, err error) error {
	interrupted := err != nil && ctx.Err() != nil
	failed := err != nil && !interrupted
	if failed {
		d.explain(err)
	}
	if interrupted {
		err = ErrInterrupted
	}
	for _, stop := range d.stops {
		stop()
	}
	closed := l.Close()
	if failed {
		// Keys stay nowhere.
		return errors.Join(err, closed, os.RemoveAll(d.files.CA()), os.RemoveAll(d.certificates()))
	}
	return errors.Join(err, closed, os.RemoveAll(d.Dir))
}

// explain shows where the evidence of a failure is, and its last lines.
func (d *demo) explain(err error) {
	if !errors.Is(err, ErrFailed) {
		d.Line("")
		d.Line("    " + d.Paint(evidence.Red, "✗ "+err.Error()))
	}
	if d.edge == nil {
		return
	}
	for _, path := range []string{d.edge.Log(), d.edge.AccessLog(), d.files.Log(d.Node)} {
		lines := testbed.LastLines(path, 8)
		if lines == nil {
			continue
		}
		d.Line("")
		d.Line("last lines of " + path)
		for _, l := range lines {
			d.Line("  " + l)
		}
	}
	d.Line("")
	d.Line("kept in " + d.Dir + ": configuration, logs, access logs")
	if path, err := d.writePcap(); err == nil {
		d.Line("the packets of the link behind the edge are in " + path)
	}
}

// writePcap puts what has been captured where tcpdump and Wireshark can read it.
func (d *demo) writePcap() (path string, err error) {
	if d.whole == nil {
		return "", errors.New("nothing was captured")
	}
	f, err := os.Create(filepath.Join(d.Dir, "link.pcap"))
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(d.whole.Sniffer.WritePcap(f), f.Close())
}

// invite prints what to try while everything is up.
func (d *demo) invite(ctx context.Context) error {
	if _, err := d.edge.Start(ctx); err != nil { // the last step has ended it
		return err
	}
	pcap, err := d.writePcap()
	if err != nil {
		return err
	}
	client, edge := "ip netns exec "+filepath.Base(d.Client.Path()), "ip netns exec "+filepath.Base(d.Edge.Path())
	for _, l := range []string{
		"",
		"everything is up until Ctrl-C. In another terminal, as root (ip is of Debian's iproute2):",
		"",
		"  # ask as the client",
		fmt.Sprintf("  %s curl -v --cacert %s --resolve %s:443:%s https://%s/headers", client, d.rootFile(), name, d.Outside, name),
		fmt.Sprintf("  %s gtlsclient -q --exit-on-all-streams-close --sni=%s %s 443 https://%s/headers", client, name, d.Outside, name),
		"",
		"  # what is served, and where a request would go, and why",
		fmt.Sprintf("  %s %s status gateways", edge, d.Binary),
		fmt.Sprintf("  %s %s why https://%s/ -H 'env: canary'", edge, d.Binary, name),
		"",
		"  # change anything: the edge follows",
		fmt.Sprintf("  $EDITOR %s/*.yaml", d.edge.Dir()),
		"",
		"what crossed the link behind the edge, for tcpdump and Wireshark: " + pcap,
	} {
		d.Line(l)
	}
	return nil
}

// certificates is where those that clients see are.
func (d *demo) certificates() string { return filepath.Join(d.Dir, "certificates") }

// rootFile is the root that clients trust.
func (d *demo) rootFile() string { return filepath.Join(d.Dir, "root.pem") }
