package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"time"

	"github.com/adit-mesh/adit/identity"
)

const adminIndex = `adit agent

GET  /config_dump                     what the agent knows and does, as JSON
GET  /status                          how the agent is: adit status
GET  /pods                            pods of this node, captured or not: adit pods
GET  /connections                     live connections: adit connections
GET  /why?src=…&dst=…                 what would become of a connection: adit why
GET  /gateways                        what the edge serves: adit status gateways
GET  /route?url=…                     what would become of a request: adit why URL
GET  /logging                         the log level
POST /logging?level=debug             change it: debug, info, warn, error
POST /certificates/rotate?id=spiffe…  fetch a new certificate now
POST /quitquitquit                    stop softly, as on SIGTERM; not on Kubernetes
GET  /debug/pprof/                    profiles
`

// adminHandler is the operator's interface.
func (a *Agent) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, adminIndex) })
	mux.HandleFunc("GET /config_dump", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, a.dump()) })
	a.inspected().Register(mux)
	a.registerEdge(mux)
	mux.HandleFunc("GET /logging", a.showLevel)
	mux.HandleFunc("POST /logging", a.setLevel)
	mux.HandleFunc("POST /certificates/rotate", a.rotate)
	mux.HandleFunc("POST /quitquitquit", a.quit)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return localOnly(mux)
}

// localOnly keeps web pages and other users out. A browser on this machine can be
// made to ask any loopback port, but it names the page's site in Host or Origin.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopbackHost(r.Host) || r.Header.Get("Origin") != "" {
			http.Error(w, "this interface is for operators on this machine: use http://127.0.0.1", http.StatusForbidden)
			return
		}
		if err := mayCommand(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func loopbackHost(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

func (a *Agent) showLevel(w http.ResponseWriter, _ *http.Request) {
	if a.opt.Level == nil {
		http.Error(w, "the log level of this agent is fixed", http.StatusNotImplemented)
		return
	}
	fmt.Fprintln(w, a.opt.Level.Level())
}

func (a *Agent) setLevel(w http.ResponseWriter, r *http.Request) {
	if a.opt.Level == nil {
		http.Error(w, "the log level of this agent is fixed", http.StatusNotImplemented)
		return
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(r.FormValue("level"))); err != nil {
		http.Error(w, fmt.Sprintf("level %q is not one of debug, info, warn, error", r.FormValue("level")), http.StatusBadRequest)
		return
	}
	a.opt.Level.Set(level)
	a.log.Info("log level changed on the admin port", "level", level)
	fmt.Fprintln(w, level)
}

// rotateTimeout bounds the wait for a certificate that was asked for.
const rotateTimeout = 15 * time.Second

func (a *Agent) rotate(w http.ResponseWriter, r *http.Request) {
	id, err := parseID(r.FormValue("id"))
	if err != nil {
		http.Error(w, "id: "+err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), rotateTimeout)
	defer cancel()
	if err := a.ids.Rotate(ctx, id); err != nil {
		status := http.StatusBadGateway
		if errors.Is(err, identity.ErrNotInUse) {
			status = http.StatusNotFound
		}
		http.Error(w, err.Error(), status)
		return
	}
	for _, c := range a.ids.Certificates() {
		if c.ID == id {
			writeJSON(w, dumpCertificate(c))
			return
		}
	}
	http.Error(w, "the identity was dropped meanwhile", http.StatusNotFound)
}

func (a *Agent) quit(w http.ResponseWriter, _ *http.Request) {
	if a.kube != nil {
		// The loopback of a node is that of every pod on its network, whoever it
		// runs as, and a node whose agent stops has captured pods without one.
		http.Error(w, "an agent on Kubernetes is stopped by deleting its pod", http.StatusForbidden)
		return
	}
	fmt.Fprintln(w, "stopping; live connections may end within", a.cfg.DrainTimeout)
	a.stop(errQuit)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // the client is gone
}
