package gateway

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/ingress"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what came out as what is expected")

// TestManifests applies the objects of each testdata/NAME.yaml and compares what
// statuses and configuration come to with testdata/NAME.want. Comments in the
// manifest say what is to be seen.
func TestManifests(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no manifests: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".yaml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			tr := newTestTranslator()
			for _, o := range manifest(t, file) {
				tr.Set(o)
			}
			cfg, _ := tr.Build()
			got := summary(tr.Statuses(failing(cfg), placedAll(tr))) + "---\n" + configSummary(cfg)
			if *update {
				if err := os.WriteFile(name+".want", []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(name + ".want")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("statuses or configuration differ from %s.want (-want +got):\n%s", name, diff)
			}
			if again, changed := tr.Build(); changed || again != cfg {
				t.Error("Build without a change made another Config")
			}
		})
	}
}

// failing says that port 9999 could not be had, and the mirror of 9998 neither.
func failing(cfg *ingress.Config) ingress.Applied {
	applied := ingress.Applied{Failed: make(map[ingress.Bind]error), NoQUIC: make(map[ingress.Bind]error)}
	for _, p := range cfg.Ports {
		switch p.Public {
		case 9999:
			applied.Failed[p.Bind] = errors.New("listen tcp :9999: address already in use")
		case 9998:
			applied.NoQUIC[p.Bind] = errors.New("listen udp :9998: address already in use")
		}
	}
	return applied
}
