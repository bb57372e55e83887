package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// servers are the agent's own HTTP servers: admin, metrics, readiness.
type servers struct {
	list []httpServer
}

type httpServer struct {
	name string
	l    net.Listener
	s    *http.Server
}

// listenServers opens the configured ports. A port that is taken ends the agent
// before anything is served.
func (a *Agent) listenServers() (*servers, error) {
	metrics := http.NewServeMux()
	scrape := a.metricsHandler()
	metrics.Handle("GET /metrics", scrape)
	metrics.Handle("GET /stats/prometheus", scrape) // where Istio's scrapers look
	health := http.NewServeMux()
	health.Handle("GET /healthz/ready", a.ready)
	health.HandleFunc("GET /healthz/live", func(http.ResponseWriter, *http.Request) {})

	srv := new(servers)
	for _, want := range []struct {
		name, addr string
		handler    http.Handler
	}{
		{"admin", a.cfg.Admin, a.adminHandler()},
		{"metrics", a.cfg.Metrics, metrics},
		{"readiness", a.cfg.Readiness, health},
	} {
		if want.addr == "" {
			continue
		}
		l, err := listen(want.addr)
		if err != nil {
			srv.close()
			return nil, fmt.Errorf("%s port: %w", want.name, err)
		}
		writeTimeout := 30 * time.Second // any pod may ask, and not read the answer
		if want.name == "admin" {
			writeTimeout = 0 // a profile takes as long as it is asked to
		}
		srv.list = append(srv.list, httpServer{want.name, l, &http.Server{
			Handler:        want.handler,
			ReadTimeout:    5 * time.Second,
			WriteTimeout:   writeTimeout,
			IdleTimeout:    time.Minute,
			MaxHeaderBytes: 16 << 10,
			ErrorLog:       slog.NewLogLogger(a.log.With("part", want.name).Handler(), slog.LevelDebug),
		}})
		if want.name == "admin" {
			srv.list[len(srv.list)-1].s.ConnContext = withCaller
		}
	}
	return srv, nil
}

// serve runs the servers in g until close.
func (s *servers) serve(g *group) {
	for _, srv := range s.list {
		g.run(srv.name, func() error {
			if err := srv.s.Serve(srv.l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
}

// close ends the servers at once: their requests are short, and whoever still
// waits has asked an agent that is no more.
func (s *servers) close() {
	for _, srv := range s.list {
		srv.s.Close()
		srv.l.Close()
	}
}

func newRegistry(version string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "istio_build", Help: "Istio's name for which build runs here.",
	}, []string{"component", "tag"})
	build.WithLabelValues("adit", version).Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func (a *Agent) metricsHandler() http.Handler {
	return promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		// A scrape under way holds every series in memory.
		MaxRequestsInFlight: 4,
		ErrorLog:            slog.NewLogLogger(a.log.With("part", "metrics").Handler(), slog.LevelWarn),
	})
}
