package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/adit-mesh/adit/e2e/evidence"
	"github.com/adit-mesh/adit/e2e/lab"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// Options say how to run the demo.
type Options struct {
	Binary string    // this program, started again as agent and as pod
	Dir    string    // where configuration, logs and the capture go; made and removed
	Out    io.Writer // the report
	Color  bool
	Keep   bool // when all is shown, wait for ctx before cleaning up
}

var (
	// ErrFailed is returned when the demo ran and a claim did not hold.
	ErrFailed = errors.New("the demo ran, and not everything held")
	// ErrInterrupted is returned when ctx ended before everything was shown.
	ErrInterrupted = errors.New("the demo was interrupted; everything it made is removed")
)

// nsPrefix is before the names of all namespaces of the demo.
const nsPrefix = "adit-demo-"

// demo is a run in progress. One goroutine owns it.
type demo struct {
	Options
	*testbed.Network
	*evidence.Report
	began  time.Time
	files  testbed.Files
	agentA *testbed.Agent
	agentB *testbed.Agent
	tokens []string        // what must never be seen on the link
	whole  *evidence.Watch // the link, from the first agent to the end
	open   *ticks          // a stream that was opened before there were agents
}

// Run builds the network, shows each claim with its evidence, and removes
// everything again: namespaces, processes, files. After a failure the logs and
// the capture stay, and the report says where. A nil error means that every
// claim held.
func Run(ctx context.Context, o Options) (err error) {
	// The name is free again when the process ends, however it ends.
	lock, err := net.Listen("unix", "@adit-demo")
	if err != nil {
		return errors.New("another adit demo is running on this machine; wait for it or stop it")
	}
	defer lock.Close()
	if err := errors.Join(testbed.Sweep(nsPrefix, "adit"), os.RemoveAll(o.Dir)); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	l, err := lab.New(nsPrefix)
	if err != nil {
		return err
	}
	d := &demo{Options: o, Report: &evidence.Report{Out: o.Out, Color: o.Color, Ended: func() bool { return ctx.Err() != nil }}, files: testbed.Files{Dir: o.Dir}, began: time.Now()}
	defer func() { err = d.cleanUp(ctx, l, err) }()
	if d.Network, err = testbed.Build(l); err != nil {
		return err
	}
	d.agentA = &testbed.Agent{Binary: o.Binary, Files: d.files, Node: d.NodeA}
	d.agentB = &testbed.Agent{Binary: o.Binary, Files: d.files, Node: d.NodeB}
	return d.run(ctx)
}

func (d *demo) run(ctx context.Context) error {
	d.introduce()
	for _, step := range []func(context.Context) error{
		d.plaintextIsReadable,
		d.agentsEnrol,
		d.requestsWork,
		d.outsidersAreRefused,
		d.certificateRotates,
		d.sameNodeByTunnel,
		d.agentDies,
		d.sameNodeDirect,
		d.wholeRunWasSealed,
	} {
		if err := step(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil { // claims after it were not made
			return context.Cause(ctx)
		}
	}
	d.Line("")
	took := time.Since(d.began).Round(100 * time.Millisecond)
	if d.Failed > 0 {
		d.Line(d.Paint(evidence.Red, fmt.Sprintf("%d of %d claims did not hold", d.Failed, d.Passed+d.Failed)) + fmt.Sprintf(" (%s)", took))
		return ErrFailed
	}
	d.Line(d.Paint(evidence.Green, fmt.Sprintf("all %d claims held", d.Passed)) + fmt.Sprintf(" (%s)", took))
	if d.Keep {
		pcap, err := d.writePcap()
		if err != nil {
			return err
		}
		d.invite(pcap)
		<-ctx.Done()
		d.Line("")
	}
	return nil
}

func (d *demo) introduce() {
	d.Line(d.Paint(evidence.Bold, "adit demo: two nodes, four pods, and no proxy configured in any of them"))
	d.Line("")
	for i, n := range d.Nodes {
		d.Line(fmt.Sprintf("    %s  %-10s %s", n.Name, n.V4, n.V6))
		var pods []*testbed.Pod
		for _, p := range d.Pods {
			if p.Node == n {
				pods = append(pods, p)
			}
		}
		for j, p := range pods {
			branch := "├─"
			if j == len(pods)-1 {
				branch = "└─"
			}
			d.Line(fmt.Sprintf("      %s %-9s %-11s %-15s %s", branch, p.Name, p.V4, p.V6, d.Paint(evidence.Dim, p.Identity())))
		}
		if i == 0 {
			d.Line("      ║ the link: watched by a packet capture from here on")
		}
	}
	d.Line(fmt.Sprintf("    service %s = %s:%d → server-b:%d", testbed.ServiceHost, testbed.ServiceVIP, testbed.ServicePort, testbed.AppPort))
	d.Line(fmt.Sprintf("    policy  only %s may call the servers", d.Client.Identity()))
}

// cleanUp removes everything but, after a failure, what explains it.
func (d *demo) cleanUp(ctx context.Context, l *lab.Lab, err error) error {
	if d.open != nil {
		_ = d.open.Close()
	}
	interrupted := err != nil && ctx.Err() != nil
	failed := err != nil && !interrupted
	if failed {
		d.explain(err)
	}
	if interrupted {
		err = ErrInterrupted
	}
	if d.whole != nil {
		_ = d.whole.Sniffer.Close()
	}
	closed := l.Close()
	if failed {
		// Keys stay nowhere.
		return errors.Join(err, closed, os.RemoveAll(d.files.CA()))
	}
	return errors.Join(err, closed, os.RemoveAll(d.Dir))
}

// explain shows where the evidence of a failure is, and its last lines.
func (d *demo) explain(err error) {
	if !errors.Is(err, ErrFailed) {
		d.Line("")
		d.Line("    " + d.Paint(evidence.Red, "✗ "+err.Error()))
	}
	if d.Network == nil {
		return
	}
	for _, n := range d.Nodes {
		path := d.files.Log(n)
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
	d.Line("kept in " + d.Dir + ": configuration, agent logs, access logs")
	if path, err := d.writePcap(); err == nil {
		d.Line("the link's packets are in " + path)
	}
}

// writePcap ends the capture of the link and puts it where tcpdump and
// Wireshark can read it.
func (d *demo) writePcap() (path string, err error) {
	if d.whole == nil {
		return "", errors.New("nothing was captured")
	}
	if err := d.whole.Sniffer.Close(); err != nil {
		return "", err
	}
	f, err := os.Create(filepath.Join(d.Dir, "link.pcap"))
	if err != nil {
		return "", err
	}
	return f.Name(), errors.Join(d.whole.Sniffer.WritePcap(f), f.Close())
}

// invite prints what to try while everything is up.
func (d *demo) invite(pcap string) {
	self := d.Binary
	for _, l := range []string{
		"",
		"everything is up until Ctrl-C. In another terminal, as root:",
		"",
		"  # ask as the client, by pod address and by service address",
		fmt.Sprintf("  %s demo get client %s", self, url(d.ServerB.V4, testbed.AppPort)),
		fmt.Sprintf("  %s demo get client %s", self, url(testbed.ServiceVIP, testbed.ServicePort)),
		"",
		"  # be refused as the intruder; the agent of the server says why",
		fmt.Sprintf("  %s demo get intruder %s", self, url(d.ServerB.V4, testbed.AppPort)),
		fmt.Sprintf("  tail -n 1 %s", d.files.AccessLog(d.NodeB)),
		"",
		"  # let the intruder in: the agents read the file again at once",
		fmt.Sprintf("  sed -i 's|sa/client}|sa/intruder}|' %s", d.files.World()),
		fmt.Sprintf("  %s demo get intruder %s", self, url(d.ServerB.V4, testbed.AppPort)),
		"",
		"  # what an agent knows, and counts",
		fmt.Sprintf("  %s demo get node-a %s/config_dump", self, testbed.AdminURL),
		fmt.Sprintf("  %s demo get node-a %s/connections", self, testbed.AdminURL),
		fmt.Sprintf("  %s demo get node-b %s", self, testbed.MetricsURL),
		"",
		"what crossed the link, for tcpdump and Wireshark: " + pcap,
	} {
		d.Line(l)
	}
}

// brief is an error without the URL that net/http puts before it.
func brief(err error) string {
	if err == nil {
		return "no error"
	}
	s := err.Error()
	if i := strings.Index(s, "\": "); i >= 0 {
		s = s[i+3:]
	}
	return s
}
