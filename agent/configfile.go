package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
)

// LoadConfig reads the configuration from a file. Relative paths in it are
// relative to its directory. The error is a [*ConfigError].
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, &ConfigError{Name: path, Err: fmt.Errorf("configuration: %w; adit agent --help shows such a file", err)}
	}
	cfg, err := ParseConfig(path, data)
	if err != nil {
		return cfg, err
	}
	dir := filepath.Dir(path)
	paths := []*string{&cfg.World.File, &cfg.CA.Directory, &cfg.CA.RootFile, &cfg.AccessLog.File}
	if cfg.World.Kubernetes != nil {
		paths = append(paths, &cfg.World.Kubernetes.Kubeconfig)
	}
	if cfg.Ingress != nil {
		paths = append(paths, &cfg.Ingress.Config, &cfg.Ingress.AccessLog.File)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return cfg, nil
}

// ParseConfig reads the configuration from YAML; name is for messages. The
// error is a [*ConfigError] with every problem that was found.
func ParseConfig(name string, data []byte) (Config, error) {
	doc := document{name: name, lines: strings.Split(string(data), "\n")}
	cfg := DefaultConfig()
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		doc.addSyntax(err)
		return cfg, doc.err()
	}
	if doc.check(file, cfg); len(doc.problems) > 0 {
		return cfg, doc.err()
	}
	if len(doc.places) == 0 {
		// A file of comments keeps the defaults, which the decoder would clear.
	} else if err := yaml.Unmarshal(data, &cfg); err != nil {
		doc.addSyntax(err)
		return cfg, doc.err()
	}
	if _, named := doc.places["world.kubernetes"]; named && cfg.World.Kubernetes == nil {
		cfg.World.Kubernetes = new(KubernetesConfig) // "kubernetes:" alone is all of its defaults
	}
	if _, named := doc.places["cni"]; named && cfg.CNI == nil {
		cfg.CNI = new(CNIConfig)
	}
	if _, named := doc.places["ingress"]; named && cfg.Ingress == nil {
		cfg.Ingress = new(IngressConfig)
	}
	if _, named := doc.places["ingress.kubernetes"]; named && cfg.Ingress.Kubernetes == nil {
		cfg.Ingress.Kubernetes = new(IngressKubernetesConfig)
	}
	cfg.complete()
	for _, f := range cfg.faults() {
		doc.addFault(f)
	}
	return cfg, doc.err()
}

// Validate reports what is wrong with a configuration that was not read from a
// file. The error is a [*ConfigError].
func (c Config) Validate() error {
	doc := document{name: "configuration"}
	for _, f := range c.faults() {
		doc.addFault(f)
	}
	return doc.err()
}

// document collects the problems of one file.
type document struct {
	name     string
	lines    []string
	places   map[string]place // of the value of each field that is present
	problems []Problem
}

// place is where something stands in the file.
type place struct{ line, column, width int }

func (d *document) add(at place, field, message string) {
	p := Problem{Line: at.line, Column: at.column, Width: at.width, Field: field, Message: message}
	if at.line > 0 && at.line <= len(d.lines) {
		p.Source = strings.TrimRight(d.lines[at.line-1], "\r")
		if left := len([]rune(p.Source)) - at.column + 1; p.Width > left {
			p.Width = max(left, 1)
		}
	}
	d.problems = append(d.problems, p)
}

// addFault places a fault at the value of its field, or at that of the nearest
// field around it if the file does not have it.
func (d *document) addFault(f fault) {
	for path := f.field; path != ""; path = parentPath(path) {
		if at, ok := d.places[path]; ok {
			d.add(at, f.field, f.message)
			return
		}
	}
	d.add(place{}, f.field, f.message)
}

// parentPath is the path around a field: "a.b[0]" is in "a.b", which is in "a".
func parentPath(path string) string {
	if i := strings.LastIndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return ""
}

func (d *document) err() error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return &ConfigError{Name: d.name, Problems: d.problems}
}
