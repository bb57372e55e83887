package capture_test

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/capture"
)

func TestReversePathAndSyncookies(t *testing.T) {
	matrix(t, func(w *world, fam v, mode func(*agent)) {
		b := w.enrol(w.b, capture.Rules{})
		mode(b)
		w.app(w.b, fam.port(w.b, appPort))
		w.app(w.c, fam.port(w.c, appPort))
		check := func(why string) {
			w.t.Helper()
			w.mustCall(why+", in", w.c, fam.port(w.b, appPort), fam.of(w.c))
			w.mustCall(why+", out", w.b, fam.port(w.c, appPort), fam.of(w.b))
		}
		for _, filter := range []string{"0", "1", "2"} {
			for _, link := range []string{"all", "default", "lo", "eth0"} {
				w.must(w.b.Sysctl("net.ipv4.conf."+link+".rp_filter", filter))
			}
			check("rp_filter=" + filter)
		}
		for _, link := range []string{"all", "lo", "eth0"} {
			w.must(w.b.Sysctl("net.ipv4.conf."+link+".rp_filter", "1"))
			w.must(w.b.Sysctl("net.ipv4.conf."+link+".src_valid_mark", "1"))
		}
		check("rp_filter=1 with src_valid_mark=1")
		w.must(w.b.Sysctl("net.ipv4.tcp_syncookies", "2"))
		check("syncookies always")
	})
}

// Where lo has no IPv6, IPv4 works; IPv6 comes back by itself.
func TestLoopbackWithoutIPv6(t *testing.T) {
	for _, when := range []string{"before enrolment", "after enrolment"} {
		t.Run(when, func(t *testing.T) {
			w := newWorld(t)
			if when == "before enrolment" {
				w.must(w.b.Sysctl("net.ipv6.conf.lo.disable_ipv6", "1"))
			}
			b, _ := w.watched(w.b)
			w.must(w.b.Sysctl("net.ipv6.conf.lo.disable_ipv6", "1"))
			for _, fam := range []v{v4, v6} {
				w.app(w.b, fam.port(w.b, appPort))
				w.app(w.c, fam.port(w.c, appPort))
			}
			w.mustCall("IPv4 in", w.c, v4.port(w.b, appPort), v4.of(w.c))
			w.mustCall("IPv4 out", w.b, v4.port(w.c, appPort), v4.of(w.b))
			w.mustNotCall("IPv6 out has no way to the agent", w.b, v6.port(w.c, appPort))
			if n := len(b.saw(capture.PortOutbound)); n != 1 {
				t.Errorf("%d connections arrived at 15001, want 1", n)
			}
			w.must(w.b.Sysctl("net.ipv6.conf.lo.disable_ipv6", "0"))
			w.eventually("IPv6 is back", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), impatience)
				defer cancel()
				in, err := w.callContext(ctx, w.c, nil, v6.port(w.b, appPort))
				if err != nil || in.seen != v6.of(w.c) {
					return false
				}
				_, err = w.callContext(ctx, w.b, nil, v6.port(w.c, appPort))
				return err == nil
			})
		})
	}
}

// A pod may have no IPv6 at all, and another none of it but on lo.
func TestPodWithoutIPv6(t *testing.T) {
	w := newWorld(t)
	for _, link := range []string{"all", "default", "lo", "eth0"} {
		w.must(w.b.Sysctl("net.ipv6.conf."+link+".disable_ipv6", "1"))
	}
	b := w.enrol(w.b, capture.Rules{})
	w.app(w.b, v4.port(w.b, appPort))
	w.mustCall("in", w.c, v4.port(w.b, appPort), v4.of(w.c))
	if got := b.pod.Verify(); len(got) != 0 {
		t.Errorf("the lack of IPv6 is no damage: %v", got)
	}
}

// Where sysctls cannot be written capture works all the same.
func TestReadOnlySysctls(t *testing.T) {
	bothFamilies(t, func(t *testing.T, fam v) {
		w := newWorld(t)
		// The whole test binary has a mount namespace of its own.
		w.must(unix.Mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, ""))
		defer func() { w.must(unix.Unmount("/proc/sys", unix.MNT_DETACH)) }()
		w.must(unix.Mount("", "/proc/sys", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
		b := w.enrol(w.b, capture.Rules{})
		if b.pod.UsesMarkAccept() {
			t.Fatal("mode B is claimed without its sysctls")
		}
		w.app(w.b, fam.port(w.b, appPort))
		w.mustCall("in", w.c, fam.port(w.b, appPort), fam.of(w.c))
		if got := b.pod.Verify(); len(got) != 0 {
			t.Errorf("the lack of mode B is no damage: %v", got)
		}
	})
}

// A connection made while the table is replaced is captured, and none is lost.
func TestReplaceUnderLoad(t *testing.T) {
	t.Run("by the same", func(t *testing.T) {
		replaceUnderLoad(t, func(p *capture.Pod, _ int) error { return p.Reapply() })
	})
	t.Run("by others", func(t *testing.T) {
		replaceUnderLoad(t, func(p *capture.Pod, i int) error {
			return p.SetRules(capture.Rules{DNS: i%2 == 0, ProbePorts: []capture.PortRange{capture.Port(uint16(9000 + i))}})
		})
	})
}

func replaceUnderLoad(t *testing.T, replace func(p *capture.Pod, i int) error) {
	w := newWorld(t)
	b := w.enrol(w.b, capture.Rules{})
	w.app(w.b, v4.port(w.b, appPort))
	long := w.mustCall("before", w.c, v4.port(w.b, appPort), v4.of(w.c))
	done := make(chan error, 1)
	go func() {
		for i := range 200 {
			if err := replace(b.pod, i); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	calls := 1
	for running := true; running; calls++ {
		c, err := w.call(w.c, nil, v4.port(w.b, appPort))
		if err != nil {
			rejected, _ := b.pod.Rejected()
			t.Fatalf("call %d: %v (the agent's dials: %v, refused by its listeners: %d, rejected by the kernel since the last replace: %d)",
				calls, err, b.errors(), b.pod.Refused(), rejected)
		}
		c.Close()
		select {
		case err := <-done:
			w.must(err)
			running = false
		default:
		}
	}
	w.alive("a connection from before all replaces", long)
	w.eventually("every connection was captured", func() bool { return len(b.saw(capture.PortInbound)) == calls })
	t.Logf("%d connections during 200 replaces", calls)
}

func TestPreflight(t *testing.T) {
	newWorld(t) // skips where there are no namespaces
	start := time.Now()
	if err := capture.Preflight(); err != nil {
		t.Errorf("this kernel should do: %v", err)
	}
	t.Logf("took %s", time.Since(start))
}
