package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// holding is an answering whose requests to /hold wait until they are let go.
type holding struct {
	came, release chan struct{}
}

func newHolding() *holding {
	return &holding{came: make(chan struct{}, 16), release: make(chan struct{})}
}

func (h *holding) handler() answering {
	return answering{under: func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			h.came <- struct{}{}
			<-h.release
		}
	}}
}

// TestDrain: the end of Run lets requests under way end, on every version, takes
// no new connection, and leaves no goroutine.
func TestDrain(t *testing.T) {
	ca := newAuthority(t)
	cert := []*tls.Certificate{ca.issue(t, "a.org")}
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			hold := newHolding()
			bind := freeBind(t)
			s := start(t, ServerConfig{Proxy: hold.handler()})
			s.apply(t, httpsPort(bind, 443, httpsListener("a", "a.org", cert, "/")))
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			idle := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			idle.get(t, "a.org", "/")
			type result struct {
				status int
				header http.Header
				err    error
			}
			got := make(chan result, 1)
			go func() {
				status, _, h, err := c.try("a.org", "/hold")
				got <- result{status, h, err}
			}()
			<-hold.came
			stopped := make(chan struct{})
			go func() { s.stop(); close(stopped) }()
			eventually(t, "new connections are refused", func() bool {
				nc, err := net.Dial("tcp", bind.String())
				if err == nil {
					nc.Close()
				}
				return err != nil
			})
			select {
			case <-stopped:
				t.Fatal("Run returned with a request under way")
			case r := <-got:
				t.Fatalf("the request was cut: %+v", r)
			default:
			}
			close(hold.release)
			r := <-got
			if r.err != nil || r.status != 200 {
				t.Errorf("the request under way got %d, %v", r.status, r.err)
			}
			<-stopped
			c.close()
			idle.close()
			s.Server.cfg.Backends.(fromSet).Close(context.Background())
			goleak.VerifyNone(t, before)
		})
	}
}

// TestDrainTimeout: what does not end is closed.
func TestDrainTimeout(t *testing.T) {
	ca := newAuthority(t)
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			bind := freeBind(t)
			came := make(chan struct{})
			s := start(t, ServerConfig{DrainTimeout: 50 * time.Millisecond, Proxy: answering{under: func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(200)
				http.NewResponseController(w).Flush()
				close(came)
				<-r.Context().Done()
			}}})
			s.apply(t, httpsPort(bind, 443, httpsListener("a", "a.org", []*tls.Certificate{ca.issue(t, "a.org")}, "/")))
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			got := make(chan error, 1)
			go func() {
				_, _, _, err := c.try("a.org", "/")
				got <- err
			}()
			<-came
			s.stop()
			if err := <-got; err == nil {
				t.Error("an answer that was cut looks complete")
			}
		})
	}
}

// TestPortComesAndGoes: the connections of a port that is gone drain, and those of
// one that comes back are served.
func TestPortComesAndGoes(t *testing.T) {
	ca := newAuthority(t)
	cert := []*tls.Certificate{ca.issue(t, "a.org")}
	hold := newHolding()
	bind := freeBind(t)
	s := start(t, ServerConfig{Proxy: hold.handler()})
	port := httpsPort(bind, 443, httpsListener("a", "a.org", cert, "/"))
	s.apply(t, port)
	got := make(chan string, len(versions))
	for _, v := range versions {
		c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
		go func() {
			status, _, _, err := c.try("a.org", "/hold")
			got <- fmt.Sprintf("%s %d %v", v, status, err)
		}()
		<-hold.came
	}
	s.apply(t)
	if nc, err := net.Dial("tcp", bind.String()); err == nil {
		nc.Close()
		t.Error("the port is gone, and accepts")
	}
	for range 3 {
		s.apply(t, port) // while the others drain, QUIC on the same socket
		for _, v := range versions {
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
				t.Errorf("%s: the port is back, but got %d", v, status)
			}
			c.close()
		}
		s.apply(t)
	}
	close(hold.release)
	for range versions {
		if r := <-got; !strings.HasSuffix(r, " 200 <nil>") {
			t.Errorf("a request that was under way when its port went: %s", r)
		}
	}
	eventually(t, "everything of the port is gone", func() bool {
		s.apply(t)
		return len(s.Dump().Ports) == 0
	})
}

func TestBindErrors(t *testing.T) {
	ca := newAuthority(t)
	cert := []*tls.Certificate{ca.issue(t, "a.org")}
	taken, free := freeBind(t), freeBind(t)
	ln, err := net.Listen("tcp", taken.String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	s := start(t, ServerConfig{})
	a := s.Apply(&Config{Ports: []*Port{
		httpsPort(taken, 443, httpsListener("a", "a.org", cert, "/")),
		httpsPort(free, 8443, httpsListener("a", "a.org", cert, "/")),
	}})
	if len(a.Failed) != 1 || a.Failed[taken] == nil {
		t.Fatalf("Failed is %v, want the socket that is taken and no other", a.Failed)
	}
	if !strings.Contains(a.Failed[taken].Error(), "another process") {
		t.Errorf("%q does not say what to do", a.Failed[taken])
	}
	c := dialHTTP(t, "h2", free.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
	if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
		t.Errorf("the other port got %d", status)
	}
	ln.Close()
	select {
	case <-s.Changed():
	case <-time.After(10 * time.Second):
		t.Fatal("the socket is free, and nobody tried again")
	}
	if a := s.Applied(); len(a.Failed) > 0 {
		t.Errorf("still %v", a.Failed)
	}
	c = dialHTTP(t, "h3", taken.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
	if status, _, _ := c.get(t, "a.org", "/"); status != 200 {
		t.Errorf("the port that was taken got %d", status)
	}
}

// TestOneSocketForTwo: of two Ports with one Bind, which nobody should make, the
// first is served, and stays so.
func TestOneSocketForTwo(t *testing.T) {
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	port := func(name string) *Port {
		return &Port{Bind: bind, Gateway: "infra/" + name, Public: 80, Listeners: []*Listener{{Name: name, Protocol: HTTP, Routes: rules("/")}}}
	}
	first, second := port("first"), port("second")
	for range 3 {
		s.apply(t, first, second)
		s.maintain(time.Now())
		if _, a, _ := dialHTTP(t, "h1", bind.String(), nil).get(t, "a.org", "/"); a.Listener != "first" {
			t.Errorf("got listener %q, want the first one's", a.Listener)
		}
	}
}

// TestNoQUICIsNoFailure: a UDP port that is taken costs HTTP/3, and that is not
// advertised then.
func TestNoQUICIsNoFailure(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	pc, err := net.ListenPacket("udp", bind.String())
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	s := start(t, ServerConfig{})
	a := s.Apply(&Config{Ports: []*Port{httpsPort(bind, 443, httpsListener("a", "", []*tls.Certificate{ca.issue(t, "a.org")}, "/"))}})
	if len(a.Failed) != 0 || a.NoQUIC[bind] == nil {
		t.Fatalf("got %+v, want only NoQUIC", a)
	}
	c := dialHTTP(t, "h2", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
	if _, _, h := c.get(t, "a.org", "/"); h.Get("Alt-Svc") != "" {
		t.Errorf("advertises %q, which nobody serves", h.Get("Alt-Svc"))
	}
	pc.Close()
	<-s.Changed()
	if _, _, h := c.get(t, "a.org", "/"); h.Get("Alt-Svc") != `h3=":443"; ma=86400` {
		t.Errorf("HTTP/3 is served now, but alt-svc is %q", h.Get("Alt-Svc"))
	}
}

// TestUDPListenerHasPrecedence: where both want the UDP port, clients of the UDP
// listener have no other way, and those of the HTTPS listener have.
func TestUDPListenerHasPrecedence(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	udp := bind
	udp.UDP = true
	s := start(t, ServerConfig{})
	a := s.Apply(&Config{Ports: []*Port{
		httpsPort(bind, 443, httpsListener("a", "", []*tls.Certificate{ca.issue(t, "a.org")}, "/")),
		{Bind: udp, Gateway: "infra/gw", Public: 443, Listeners: []*Listener{{Name: "udp", Protocol: UDP}}},
	}})
	if len(a.Failed) != 0 || a.NoQUIC[bind] == nil {
		t.Errorf("got %+v, want only NoQUIC", a)
	}
}

func TestQUICOffAndOn(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	s := start(t, ServerConfig{})
	cert := []*tls.Certificate{ca.issue(t, "a.org")}
	conf := &tls.Config{RootCAs: ca.pool, ServerName: "a.org"}
	on := httpsPort(bind, 443, httpsListener("a", "", cert, "/"))
	off := httpsPort(bind, 443, httpsListener("a", "", cert, "/"))
	off.QUIC.Off = true
	other := httpsPort(bind, 443, httpsListener("a", "", cert, "/"))
	other.QUIC.Advertise = 8443
	c := dialHTTP(t, "h2", bind.String(), conf)
	for _, step := range []struct {
		port   *Port
		altSvc string
		h3     bool
	}{
		{on, `h3=":443"; ma=86400`, true},
		{off, "clear", false},
		{other, `h3=":8443"; ma=86400`, true},
		{off, "clear", false},
	} {
		s.apply(t, step.port)
		if _, _, h := c.get(t, "a.org", "/"); h.Get("Alt-Svc") != step.altSvc {
			t.Errorf("alt-svc is %q, want %q", h.Get("Alt-Svc"), step.altSvc)
		}
		h3 := dialHTTP(t, "h3", bind.String(), conf)
		h3.Timeout = time.Second
		if _, _, _, err := h3.try("a.org", "/"); (err == nil) != step.h3 {
			t.Errorf("HTTP/3 gave %v; want it to be served: %v", err, step.h3)
		}
		h3.close()
	}
}

// TestConfigChangesUnderLoad: a thousand of them, with certificates and routes
// that change, fail no request on any version, and no connection either.
func TestConfigChangesUnderLoad(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	var events failures
	s := start(t, ServerConfig{Events: events.events()})
	certs := [][]*tls.Certificate{{ca.issue(t, "a.org")}, {ca.issue(t, "a.org")}}
	make1 := func(i int) *Port {
		names := []string{"/"}
		for j := range 20 {
			names = append(names, fmt.Sprintf("/route-%d-%d", i%7, j))
		}
		return httpsPort(bind, 443,
			httpsListener("a", "a.org", certs[i%2], names...),
			httpsListener(fmt.Sprint("other", i%3), fmt.Sprintf("other%d.org", i%3), nil, "/"),
		)
	}
	s.apply(t, make1(0))
	conf := &tls.Config{RootCAs: ca.pool, ServerName: "a.org"}
	var stop atomic.Bool
	var wg sync.WaitGroup
	var served [6]atomic.Int64
	seen := make([]map[string]bool, 6)
	for i := range 6 {
		v := versions[i%3]
		fresh := i >= 3 // new connections, and others that stay
		seen[i] = make(map[string]bool)
		wg.Go(func() {
			c := dialHTTP(t, v, bind.String(), conf)
			for !stop.Load() {
				resp, err := c.Get("https://a.org/x")
				if err != nil {
					t.Errorf("%s, fresh connections %v: %v", v, fresh, err)
					return
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("%s: %d %v", v, resp.StatusCode, err)
					return
				}
				seen[i][string(resp.TLS.PeerCertificates[0].SerialNumber.String())] = true
				served[i].Add(1)
				if fresh {
					c.close()
					c = dialHTTP(t, v, bind.String(), conf)
				}
			}
		})
	}
	for i := range 1000 {
		if a := s.Apply(&Config{Ports: []*Port{make1(i)}}); len(a.Failed)+len(a.NoQUIC) > 0 {
			t.Errorf("change %d: %+v", i, a)
		}
		if i%10 == 0 {
			time.Sleep(time.Millisecond) // let the load in: this test is not about the CPU
		}
	}
	at := time.Now()
	eventually(t, "every client has been served since the last change", func() bool {
		for i := range served {
			if served[i].Load() < 20 {
				return time.Since(at) > 9*time.Second
			}
		}
		return true
	})
	stop.Store(true)
	wg.Wait()
	for i := range served {
		n, certs := served[i].Load(), len(seen[i])
		if n == 0 {
			t.Errorf("%s: no request was served", versions[i%3])
		}
		if i < 3 && certs != 1 {
			t.Errorf("%s: a connection that stays showed %d certificates: it was not the same", versions[i%3], certs)
		}
		if i >= 3 && certs != 2 {
			t.Errorf("%s: new connections saw %d certificates of the 2 that took turns, in %d requests", versions[i%3], certs, n)
		}
	}
	for r, n := range events.byReason {
		t.Errorf("%d handshakes failed: %s", n, r)
	}
}

// TestStreamOutlivesChanges: an answer that has begun goes on while everything
// about its listener changes.
func TestStreamOutlivesChanges(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	lines := map[string]chan string{"h1": make(chan string), "h2": make(chan string), "h3": make(chan string)}
	s := start(t, ServerConfig{Proxy: answering{under: func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for line := range lines[r.URL.RawQuery] {
			io.WriteString(w, line+"\n")
			rc.Flush()
		}
	}}})
	s.apply(t, httpsPort(bind, 443, httpsListener("a", "a.org", []*tls.Certificate{ca.issue(t, "a.org")}, "/")))
	for _, v := range versions {
		next := lines[v]
		c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
		c.Timeout = 0
		type opened struct {
			*http.Response
			error
		}
		got := make(chan opened, 1)
		go func() {
			resp, err := c.Get("https://a.org/events?" + v)
			got <- opened{resp, err}
		}()
		next <- "first"
		o := <-got
		if o.error != nil {
			t.Fatal(v, o.error)
		}
		body := bufio.NewScanner(o.Body)
		for i := range 20 {
			s.apply(t, httpsPort(bind, 443, httpsListener(fmt.Sprint("b", i), "a.org", []*tls.Certificate{ca.issue(t, "a.org")}, "/other")))
			if !body.Scan() {
				t.Fatalf("%s: the stream ended after %d changes: %v", v, i, body.Err())
			}
			next <- fmt.Sprint("change ", i)
		}
		close(next)
		o.Body.Close()
		c.close()
		s.apply(t, httpsPort(bind, 443, httpsListener("a", "a.org", []*tls.Certificate{ca.issue(t, "a.org")}, "/")))
	}
}
