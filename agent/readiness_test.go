package agent

import (
	"strings"
	"testing"
)

func TestReadyWhileItStops(t *testing.T) {
	for name, lasting := range map[string]bool{"an agent": false, "the edge behind Services": true} {
		r := newReadiness()
		if lasting {
			r.lasts()
		}
		r.wait("gateways", "nothing is applied yet")
		if ready, _ := r.state(); ready {
			t.Errorf("%s is ready before anything is applied", name)
		}
		r.done("gateways")
		if ready, _ := r.state(); !ready {
			t.Errorf("%s is not ready", name)
		}
		r.stopping()
		if ready, detail := r.state(); ready != lasting || !strings.Contains(strings.Join(detail, ""), "stopping") {
			t.Errorf("%s that stops: ready %v, %q; want %v, and that it stops", name, ready, detail, lasting)
		}
	}
}
