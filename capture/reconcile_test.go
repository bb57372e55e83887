package capture_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
	"github.com/adit-mesh/adit/e2e/lab"
)

// tables lists the nftables tables of a namespace.
func (w *world) tables(ns *lab.Namespace) (names []string) {
	w.t.Helper()
	w.must(ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		for _, t := range tables {
			names = append(names, t.Name)
		}
		return err
	}))
	return names
}

// tamper runs an nftables transaction in a namespace, as somebody else.
func (w *world) tamper(ns *lab.Namespace, do func(*nftables.Conn)) error {
	return ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		do(conn)
		return conn.Flush()
	})
}

var ourTable = &nftables.Table{Name: "adit", Family: nftables.TableFamilyINet}

// repairs collects what Run reports.
type repairs struct {
	mu   sync.Mutex
	list []capture.Repair
}

func (r *repairs) add(x capture.Repair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, x)
}

func (r *repairs) find(kind capture.RepairKind) (capture.Repair, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.IndexFunc(r.list, func(x capture.Repair) bool { return x.Kind == kind }); i >= 0 {
		return r.list[i], true
	}
	return capture.Repair{}, false
}

func (r *repairs) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = nil
}

// watched enrols a pod and runs its reconciler, whose timer is far away: what it finds it was told of.
func (w *world) watched(ns *lab.Namespace) (*agent, *repairs) {
	w.t.Helper()
	r := new(repairs)
	a := w.enrolConfig(ns, capture.PodConfig{OnRepair: r.add, Verify: time.Hour})
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- a.pod.Run(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			w.t.Errorf("run: %v", err)
		}
	})
	return a, r
}

func TestOwnedTableResists(t *testing.T) {
	w := newWorld(t)
	b := w.enrol(w.b, capture.Rules{})
	if !b.pod.Owned() {
		t.Skip("the kernel has no table ownership (6.9)")
	}
	if err := w.tamper(w.b, func(c *nftables.Conn) { c.DelTable(ourTable) }); !errors.Is(err, unix.EPERM) {
		t.Errorf("delete by somebody else: %v, want EPERM", err)
	}
	_ = w.tamper(w.b, func(c *nftables.Conn) { c.FlushRuleset() })
	if got := w.tables(w.b); !slices.Contains(got, "adit") {
		t.Errorf("after flush ruleset: tables %v", got)
	}
	if r := b.pod.Verify(); len(r) != 0 {
		t.Errorf("nothing happened, but: %v", r)
	}
}

func TestTableRepaired(t *testing.T) {
	for why, do := range map[string]func(*nftables.Conn){
		"flushed": func(c *nftables.Conn) { c.FlushRuleset() },
		"emptied": func(c *nftables.Conn) { c.FlushTable(ourTable) },
		"rule added": func(c *nftables.Conn) {
			c.InsertRule(&nftables.Rule{Table: ourTable, Chain: &nftables.Chain{Name: "nat_pre", Table: ourTable}})
		},
		"element added": func(c *nftables.Conn) {
			_ = c.SetAddElements(&nftables.Set{Table: ourTable, Name: "in_skip_port", Interval: true, KeyType: nftables.TypeInetService},
				[]nftables.SetElement{{Key: []byte{0, 80}}, {Key: []byte{0, 81}, IntervalEnd: true}})
		},
		"put to sleep": func(c *nftables.Conn) {
			c.AddTable(&nftables.Table{Name: "adit", Family: nftables.TableFamilyINet, Flags: nftables.TableFlagDormant})
		},
	} {
		t.Run(why, func(t *testing.T) {
			w := newWorld(t)
			b, r := w.watched(w.b)
			w.must(b.pod.Unown())
			comm, _ := os.ReadFile("/proc/self/comm")
			// What happens before Run listens is repaired too, but not known by its author.
			w.eventually("the repair is reported, with this process as its cause", func() bool {
				r.forget()
				w.must(w.tamper(w.b, do))
				w.eventually("the repair is reported", func() bool { _, ok := r.find(capture.RepairTable); return ok })
				got, _ := r.find(capture.RepairTable)
				return got.Err == nil && got.PID != 0 && got.Comm == string(comm[:len(comm)-1])
			})
			w.app(w.b, v4.port(w.b, appPort))
			w.mustCall("after the repair", w.c, v4.port(w.b, appPort), v4.of(w.c))
			b.wantOne("after the repair", capture.PortInbound, v4.of(w.c), v4.port(w.b, appPort))
			if again := b.pod.Verify(); len(again) != 0 {
				t.Errorf("after the repair something is still wrong: %v", again)
			}
		})
	}
}

// Other people's tables are their business.
func TestForeignTableIsNoDamage(t *testing.T) {
	w := newWorld(t)
	b, r := w.watched(w.b)
	w.must(b.pod.Unown())
	w.must(w.tamper(w.b, func(c *nftables.Conn) {
		c.AddTable(&nftables.Table{Name: "theirs", Family: nftables.TableFamilyIPv4})
	}))
	if got := b.pod.Verify(); len(got) != 0 {
		t.Errorf("found %v", got)
	}
	if x, ok := r.find(capture.RepairTable); ok {
		t.Errorf("repaired %+v", x)
	}
}

func TestRoutesRepaired(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		family := []int{netlink.FAMILY_V4, netlink.FAMILY_V6}[fam]
		for why, do := range map[string]func(w *world){
			"rule": func(w *world) {
				rules, err := w.b.Netlink().RuleList(family)
				w.must(err)
				for _, r := range rules {
					if r.Table == 100 {
						w.must(w.b.Netlink().RuleDel(&r))
					}
				}
			},
			"route": func(w *world) {
				routes, err := w.b.Netlink().RouteListFiltered(family, &netlink.Route{Table: 100}, netlink.RT_FILTER_TABLE)
				w.must(err)
				for _, r := range routes {
					w.must(w.b.Netlink().RouteDel(&r))
				}
			},
		} {
			t.Run(why, func(t *testing.T) {
				w := newWorld(t)
				b := w.enrol(w.b, capture.Rules{})
				w.app(w.b, fam.port(w.b, appPort))
				w.must(b.pod.UseConntrackMarks(t.Context()))
				do(w)
				w.mustNotCall("the app's answers leave by the wire", w.c, fam.port(w.b, appPort))
				if got := b.pod.Verify(); len(got) != 1 || got[0].Kind != capture.RepairRoute || got[0].Err != nil {
					t.Errorf("found %+v, want one route repaired", got)
				}
				w.mustCall("after the repair", w.c, fam.port(w.b, appPort), fam.of(w.c))
			})
			t.Run(why+" at once", func(t *testing.T) {
				w := newWorld(t)
				_, r := w.watched(w.b)
				do(w)
				w.eventually("the repair is reported", func() bool { _, ok := r.find(capture.RepairRoute); return ok })
			})
		}
	})
}

func TestSysctlsRepaired(t *testing.T) {
	w := newWorld(t)
	b := w.enrol(w.b, capture.Rules{})
	w.must(w.b.Sysctl("net.ipv4.tcp_fwmark_accept", "0"))
	if got := b.pod.Verify(); len(got) != 1 || got[0].Kind != capture.RepairSysctl || got[0].Err != nil {
		t.Errorf("found %+v, want one sysctl repaired", got)
	}
	if !b.pod.UsesMarkAccept() {
		t.Error("mode B was given up")
	}
}

func TestRunFindsByTimer(t *testing.T) {
	w := newWorld(t)
	r := new(repairs)
	b := w.enrolConfig(w.b, capture.PodConfig{OnRepair: r.add, Verify: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- b.pod.Run(ctx) }()
	w.must(w.b.Sysctl("net.ipv4.fwmark_reflect", "0")) // which no event reports
	w.eventually("the repair is reported", func() bool { _, ok := r.find(capture.RepairSysctl); return ok })
	cancel()
	w.must(<-ran)
}

func TestRunEndsWithThePod(t *testing.T) {
	w := newWorld(t)
	b := w.enrolConfig(w.b, capture.PodConfig{Verify: 10 * time.Millisecond})
	ran := make(chan error, 1)
	go func() { ran <- b.pod.Run(t.Context()) }()
	w.must(b.pod.Detach())
	select {
	case err := <-ran:
		w.must(err)
	case <-time.After(patience):
		t.Error("Run goes on after Detach")
	}
}

// What this kernel should do without exchanging the table, and what comes of it.
func TestRewriteInPlace(t *testing.T) {
	w := newWorld(t)
	b := w.enrol(w.b, capture.Rules{
		SkipInboundPorts:  []capture.PortRange{capture.Port(22), {First: 9000, Last: 9100}},
		SkipOutbound:      []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		VirtualInterfaces: []string{"tap0"},
	})
	for range 3 {
		w.must(b.pod.Rewrite())
		// The rewritten table is the one that was first written, or the fingerprints would differ.
		if got := b.pod.Verify(); len(got) != 0 {
			t.Fatalf("a rewritten table is not the same: %v", got)
		}
	}
	w.must(b.pod.Drain())
	w.must(b.pod.Rewrite())
	if got := b.pod.Verify(); len(got) != 0 {
		t.Errorf("a rewritten draining table is not the same: %v", got)
	}
}
