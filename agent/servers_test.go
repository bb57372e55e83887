package agent

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// serversOf are the servers of an agent that does not run, with what m collects
// in their metrics.
func serversOf(t *testing.T, m prometheus.Collector) map[string]*http.Server {
	t.Helper()
	cfg := testConfig(t)
	cfg.Terminate = []TerminateConfig{{Listen: freeAddr(t), Identity: gatewayID}} // something to do
	a, err := New(cfg, Options{AccessLog: io.Discard, Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	a.registry = prometheus.NewRegistry()
	a.registry.MustRegister(m)
	srv, err := a.listenServers()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.close)
	byName := make(map[string]*http.Server)
	for _, s := range srv.list {
		byName[s.name] = s.s
	}
	return byName
}

// slowMetric says when it is collected, and is not until it is told to.
type slowMetric struct {
	prometheus.Gauge
	collected, goOn chan struct{}
}

func (m slowMetric) Collect(ch chan<- prometheus.Metric) {
	m.collected <- struct{}{}
	<-m.goOn
	m.Gauge.Collect(ch)
}

// A scrape under way holds every series in memory, and anybody may ask for one.
func TestScrapesUnderWayAreFew(t *testing.T) {
	const most = 4
	for _, path := range []string{"/metrics", "/stats/prometheus"} {
		t.Run(path[1:], func(t *testing.T) {
			m := slowMetric{prometheus.NewGauge(prometheus.GaugeOpts{Name: "slow"}), make(chan struct{}), make(chan struct{})}
			handler := serversOf(t, m)["metrics"].Handler
			status := make(chan int)
			scrape := func() {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
				status <- w.Code
			}
			underWay := 0
			for range most {
				go scrape()
				<-m.collected
				underWay++
			}
			go scrape()
			select {
			case code := <-status:
				if code != http.StatusServiceUnavailable {
					t.Errorf("with %d scrapes under way one more is answered %d, want 503", most, code)
				}
			case <-m.collected:
				underWay++
				t.Errorf("with %d scrapes under way one more is begun", most)
			}
			close(m.goOn)
			for range underWay {
				if code := <-status; code != http.StatusOK {
					t.Errorf("a scrape within the limit is answered %d", code)
				}
			}
			go func() { <-m.collected }()
			go scrape()
			if code := <-status; code != http.StatusOK {
				t.Errorf("after the others have ended a scrape is answered %d", code)
			}
		})
	}
}

// oneConn is a listener with one connection.
type oneConn struct {
	conns chan net.Conn
	net.Listener
}

func (l oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l oneConn) Close() error { return nil }

// Who asks for the metrics and does not read them is cut before long.
func TestScrapeThatIsNotReadEnds(t *testing.T) {
	help := strings.Repeat("long ", 10_000) // more than what net/http gathers before it writes
	synctest.Test(t, func(t *testing.T) {
		srv := serversOf(t, prometheus.NewGauge(prometheus.GaugeOpts{Name: "long", Help: help}))["metrics"]
		ended := make(chan time.Duration, 1)
		inner := srv.Handler
		start := time.Now()
		srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			inner.ServeHTTP(w, r)
			ended <- time.Since(start)
		})
		c, theirs := net.Pipe()
		l := oneConn{conns: make(chan net.Conn, 1)}
		l.conns <- theirs
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		if _, err := io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case took := <-ended:
			if took < 10*time.Second {
				t.Errorf("a scrape is given only %v to be read", took)
			}
		case <-time.After(time.Minute):
			t.Error("a scrape that nobody reads holds its series for more than a minute")
		}
		c.Close()
		close(l.conns)
		<-served
		synctest.Wait()
	})
}
