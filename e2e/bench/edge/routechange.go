package edge

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/bench/internal/stats"
)

// routeChange adds routes one after the other, each in the way that the proxy documents: a file rewritten (adit watches it),
// with SIGHUP for nginx, and a POST of the new Caddyfile for Caddy. The median of five.
func routeChange(t *trial) (results, error) {
	var took []float64
	p := t.proxy
	for i := range 5 {
		path := fmt.Sprintf("/new-%d", i)
		next := *p
		next.prefixes = append(slices.Clone(p.prefixes), path)
		o := changeOrder{File: p.configFile(), Content: next.config(), Addr: p.http, Path: path, Patience: 10 * time.Second, PID: p.prog.PID()}
		switch p.name {
		case pathCaddy:
			o.Post = "http://" + p.admin + "/load"
		case pathNginx:
			o.Signal = int(syscall.SIGHUP)
		}
		var r changeResult
		if err := t.fleet.client.Call(t.ctx, "change", o, &r); err != nil {
			return nil, err
		}
		took = append(took, float64(r.Took.Microseconds())/1e3)
		p.prefixes = next.prefixes
	}
	return results{"": stats.Median(took)}, nil
}
