package e2e

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/adit-mesh/adit"

// below lists, for each part of the tree, the parts its production code may
// import beside itself. A package belongs to the longest matching entry. The
// list is the picture in ARCHITECTURE.md: imports point down.
var below = map[string][]string{
	"identity":          {},
	"identity/istio":    {"identity"},
	"identity/caserver": {"identity"},
	"identity/cakube":   {"identity", "identity/caserver", "identity/istio"},
	"capture":           {},
	"hbone":             {"identity"},
	"agent/policy":      {"identity"},
	"agent/mesh":        {"agent/policy", "identity"},
	"agent/dns":         {"agent/mesh"},
	"agent/telemetry":   {"agent/mesh", "agent/policy", "hbone", "identity"},
	"agent/proxy":       {"agent/telemetry", "agent/mesh", "agent/policy", "capture", "hbone", "identity"},
	"agent/xds":         {"agent/mesh", "agent/policy", "identity"},
	"agent/kube":        {"agent/mesh", "agent/policy", "identity"},
	"agent/enrol/ask":   {},
	"agent/enrol":       {"agent/enrol/ask", "agent/kube", "capture", "identity"},
	"agent/inspect":     {"agent/proxy", "agent/mesh", "agent/policy", "identity"},
	"agent": {"ingress/kube", "ingress/file", "ingress/gateway", "ingress/accesslog", "ingress/metrics", "ingress", "ingress/proxy", "ingress/upstream",
		"ingress/route", "agent/inspect", "agent/enrol", "agent/proxy", "agent/dns", "agent/xds", "agent/kube", "agent/telemetry", "agent/mesh",
		"agent/policy", "capture", "hbone", "identity/istio", "identity"},
	// The edge is handed a dialer; it knows no agent.
	"ingress/route":           {},
	"ingress/lifetime":        {},
	"ingress/h1":              {"ingress/lifetime"},
	"ingress/h2":              {"ingress/lifetime"},
	"ingress/upstream":        {"ingress/h1", "hbone", "identity"},
	"ingress/proxy":           {"ingress/lifetime", "ingress/upstream", "ingress/route", "ingress/h1", "ingress/h2"},
	"ingress/accesslog":       {"ingress/proxy", "ingress/route"},
	"ingress/metrics":         {"ingress/proxy", "ingress/route"},
	"ingress":                 {"ingress/proxy", "ingress/upstream", "ingress/route", "ingress/h1", "ingress/h2"},
	"ingress/gateway/certs":   {},
	"ingress/gateway/backend": {"ingress/gateway/certs", "ingress/upstream"},
	"ingress/gateway/compile": {"ingress/gateway/backend", "ingress/proxy", "ingress/route"},
	"ingress/gateway": {"ingress/gateway/compile", "ingress/gateway/backend", "ingress/gateway/certs", "ingress", "ingress/proxy",
		"ingress/upstream", "ingress/route"},
	"ingress/file": {"ingress/gateway", "ingress"},
	"ingress/kube": {"ingress/gateway", "ingress"},
	// Scenarios reach into whatever they show. Only cmd may import them back.
	"e2e": {"agent", "agent/proxy", "agent/dns", "agent/telemetry", "agent/mesh", "agent/policy",
		"capture", "hbone", "identity", "ingress"},
	// A program that every pod's start runs: what it imports, every pod waits for.
	"cmd/adit-cni": {"agent/enrol/ask"},
	"cmd": {"agent", "agent/inspect", "agent/proxy", "agent/dns", "agent/xds", "agent/kube", "agent/telemetry", "agent/mesh",
		"agent/policy", "capture", "hbone", "identity/caserver", "identity/cakube", "identity", "ingress", "e2e"},
}

// fakes may be imported by any test, from any side.
var fakes = map[string]bool{
	"identity/identitytest": true,
	"capture/capturetest":   true,
	"e2e/lab":               true,
	"e2e/lab/labtest":       true,
}

// edges names dependencies that must not spread, and where they may be used.
var edges = map[string][]string{
	"github.com/spf13/cobra":                  {"cmd"},
	"github.com/google/nftables":              {"capture"},
	"github.com/vishvananda/netlink":          {"capture", "e2e"},
	"github.com/mdlayher/netlink":             {"capture", "e2e"},
	"github.com/goccy/go-yaml":                {"agent", "agent/mesh", "e2e"},
	"github.com/prometheus/client_golang":     {"agent", "agent/telemetry", "agent/kube", "ingress/metrics", "identity/caserver", "identity/cakube", "cmd"},
	"google.golang.org/grpc":                  {"agent/xds", "identity/istio", "identity/caserver", "cmd"},
	"google.golang.org/protobuf":              {"agent/xds", "agent/kube", "identity/istio", "identity/caserver", "capture"},
	"k8s.io/client-go":                        {"agent/kube", "identity/cakube", "ingress/kube", "cmd", "e2e"},
	"github.com/quic-go/quic-go":              {"ingress", "e2e"},
	"github.com/pires/go-proxyproto":          {"ingress"},
	"sigs.k8s.io/gateway-api":                 {"ingress/gateway", "ingress/gateway/compile", "ingress/gateway/backend", "ingress/kube", "ingress/file", "agent", "e2e"},
	"istio.io/client-go":                      {"agent/kube"},
	"github.com/google/go-containerregistry/": {},
	// The product starts no program; the demo starts itself.
	"os/exec": {"cmd", "e2e"},
	// Libraries take a logger.
	"log": {},
}

type file struct {
	name    string // path from the root of the module
	imports []string
}

func (f file) test() bool { return strings.HasSuffix(f.name, "_test.go") }

// part is the entry of below that a package of ours belongs to.
func part(pkg string) (string, bool) {
	for p := pkg; p != "."; p = path.Dir(p) {
		if _, ok := below[p]; ok {
			return p, true
		}
	}
	return "", false
}

func sources(t *testing.T) []file {
	t.Helper()
	var files []file
	root := ".."
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			base := d.Name()
			if rel == "tools" || rel == "e2e/conformance" || base == "testdata" || rel != "." && strings.HasPrefix(base, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		f := file{name: filepath.ToSlash(rel)}
		for _, spec := range parsed.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			f.imports = append(f.imports, p)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestImportsPointDown(t *testing.T) {
	for _, f := range sources(t) {
		from, ok := part(path.Dir(f.name))
		if !ok {
			t.Errorf("%s: no rule for this folder; add it to the list in this test and to ARCHITECTURE.md", f.name)
			continue
		}
		for _, imp := range f.imports {
			ours, ok := strings.CutPrefix(imp, module+"/")
			if !ok || f.test() && fakes[ours] {
				continue
			}
			if to, ok := part(ours); !ok || to != from && !slices.Contains(below[from], to) {
				t.Errorf("%s imports %s: %s may import %s only", f.name, ours, from, strings.Join(below[from], ", "))
			}
			if fakes[ours] && !f.test() && !under(path.Dir(f.name), "e2e") && !under(path.Dir(f.name), path.Dir(ours)) {
				t.Errorf("%s imports %s: a fake belongs in tests", f.name, ours)
			}
		}
	}
}

func TestImportsStayAtTheirEdge(t *testing.T) {
	for _, f := range sources(t) {
		if f.test() {
			continue
		}
		dir := path.Dir(f.name)
		for _, imp := range f.imports {
			for dep, allowed := range edges {
				if imp != dep && !strings.HasPrefix(imp, strings.TrimSuffix(dep, "/")+"/") || dep == "log" && imp != dep {
					continue
				}
				if p, _ := part(dir); !slices.Contains(allowed, p) {
					t.Errorf("%s imports %s: it belongs to %v", f.name, imp, allowed)
				}
			}
		}
	}
}

func under(dir, parent string) bool {
	return dir == parent || strings.HasPrefix(dir, parent+"/")
}
