package deploy

import (
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metric is what the product says of one of its metrics where it makes it.
type metric struct {
	kind   string // counter, gauge, histogram, or "" where the code does not say
	labels []string
	known  bool // else the code computes them, and labels are all strings of its package
}

// metrics are the series names that a scrape of adit can contain.
type metrics map[string]metric

// registered reads the product's source for every metric that it makes, and
// fails if it finds one whose name it cannot tell.
func registered(t *testing.T) metrics {
	t.Helper()
	out := make(metrics)
	for _, dir := range []string{"agent", "capture", "cmd", "hbone", "identity", "ingress"} {
		top := filepath.Join(filepath.Dir(root), dir)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path == top {
				return nil
			}
			if err != nil || !d.IsDir() {
				return err
			}
			return out.addPackage(path)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(out) < 10 {
		t.Fatalf("found only %d metrics in the source: the reader of it is wrong", len(out))
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		out.add(f.GetName(), metric{kind: strings.ToLower(f.GetType().String()), known: len(f.GetMetric()[0].GetLabel()) == 0})
	}
	out.add("up", metric{kind: "gauge", known: true}) // Prometheus' own, of each target
	return out
}

func (m metrics) add(name string, d metric) {
	if d.kind != "histogram" && d.kind != "summary" {
		m[name] = d
		return
	}
	m[name+"_sum"], m[name+"_count"] = d, d
	d.labels = append(slices.Clone(d.labels), "le")
	m[name+"_bucket"] = d
}

// source is one package, as far as it is needed to tell names.
type source struct {
	fset   *token.FileSet
	files  []*ast.File
	consts map[string]string
	texts  []string // every string literal
}

func (m metrics) addPackage(dir string) error {
	s := source{fset: token.NewFileSet(), consts: make(map[string]string)}
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(s.fset, name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		s.files = append(s.files, f)
	}
	for _, f := range s.files {
		s.strings(f)
	}
	for _, f := range s.files {
		for _, decl := range f.Decls {
			var within *ast.FuncDecl
			if fn, ok := decl.(*ast.FuncDecl); ok {
				within = fn
			}
			ast.Inspect(decl, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && err == nil {
					err = m.addCall(s, within, call)
				}
				return err == nil
			})
		}
	}
	return err
}

func (s *source) strings(f *ast.File) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			if n.Kind == token.STRING {
				s.texts = append(s.texts, text(n))
			}
		case *ast.ValueSpec:
			for i, name := range n.Names {
				if i < len(n.Values) {
					if lit, ok := n.Values[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
						s.consts[name.Name] = text(lit)
					}
				}
			}
		}
		return true
	})
}

func text(lit *ast.BasicLit) string {
	return constant.StringVal(constant.MakeFromLiteral(lit.Value, lit.Kind, 0))
}

// addCall adds what prometheus.NewDesc or prometheus.NewCounter and its like make.
func (m metrics) addCall(s source, within *ast.FuncDecl, call *ast.CallExpr) error {
	fun := selector(call.Fun, "prometheus", "promauto")
	if fun == "NewDesc" && len(call.Args) == 4 {
		labels, known := s.labels(call.Args[2])
		return m.addNames(s, within, call.Args[0], metric{labels: labels, known: known})
	}
	for _, kind := range []string{"Counter", "Gauge", "Histogram", "Summary"} {
		rest, ok := strings.CutPrefix(fun, "New"+kind)
		if !ok || (rest != "" && rest != "Vec" && rest != "Func") || len(call.Args) == 0 {
			continue
		}
		d := metric{kind: strings.ToLower(kind), known: rest != "Vec"}
		if rest == "Vec" && len(call.Args) == 2 {
			d.labels, d.known = s.labels(call.Args[1])
		}
		opts, ok := call.Args[0].(*ast.CompositeLit)
		if !ok {
			return fmt.Errorf("%s: options that are no literal", s.fset.Position(call.Pos()))
		}
		for _, el := range opts.Elts {
			kv, ok := el.(*ast.KeyValueExpr)
			if !ok {
				continue
			}
			switch key, _ := kv.Key.(*ast.Ident); key.Name {
			case "Namespace", "Subsystem", "ConstLabels":
				return fmt.Errorf("%s: %s hides the metric's name or labels from whoever searches for them", s.fset.Position(kv.Pos()), key.Name)
			case "Name":
				if err := m.addNames(s, within, kv.Value, d); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (m metrics) addNames(s source, within *ast.FuncDecl, expr ast.Expr, d metric) error {
	names := s.values(within, expr)
	if len(names) == 0 {
		return fmt.Errorf("%s: cannot tell the metric's name from the source", s.fset.Position(expr.Pos()))
	}
	for _, name := range names {
		m.add(name, d)
	}
	return nil
}

// values are the strings that expr can be: a literal, a constant, a sum of such,
// or a parameter, for which every call of the function counts.
func (s source) values(within *ast.FuncDecl, expr ast.Expr) []string {
	switch e := expr.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			return []string{text(e)}
		}
	case *ast.BinaryExpr:
		var sums []string
		for _, left := range s.values(within, e.X) {
			for _, right := range s.values(within, e.Y) {
				sums = append(sums, left+right)
			}
		}
		return sums
	case *ast.Ident:
		if v, ok := s.consts[e.Name]; ok {
			return []string{v}
		}
		if i := parameter(within, e.Name); i >= 0 {
			return s.arguments(within.Name.Name, i)
		}
	}
	return nil
}

// arguments are the values of the i-th argument in every call of fn.
func (s source) arguments(fn string, i int) (out []string) {
	for _, f := range s.files {
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && len(call.Args) > i {
				if name, ok := call.Fun.(*ast.Ident); ok && name.Name == fn {
					out = append(out, s.values(nil, call.Args[i])...)
				}
			}
			return true
		})
	}
	return out
}

func (s source) labels(expr ast.Expr) (labels []string, known bool) {
	if id, ok := expr.(*ast.Ident); ok && id.Name == "nil" {
		return nil, true
	}
	lit, ok := expr.(*ast.CompositeLit)
	if !ok {
		return s.texts, false
	}
	for _, el := range lit.Elts {
		v := s.values(nil, el)
		if len(v) != 1 {
			return s.texts, false
		}
		labels = append(labels, v[0])
	}
	return labels, true
}

func parameter(fn *ast.FuncDecl, name string) int {
	if fn == nil {
		return -1
	}
	i := 0
	for _, field := range fn.Type.Params.List {
		for _, n := range field.Names {
			if n.Name == name {
				return i
			}
			i++
		}
	}
	return -1
}

// selector is the Name of pkg.Name for one of the packages, else "".
func selector(expr ast.Expr, packages ...string) string {
	sel, ok := expr.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(packages, x.Name) {
		return sel.Sel.Name
	}
	return ""
}

// The reader of the source sees each of the ways in which a metric is made.
func TestFindsMetrics(t *testing.T) {
	got := registered(t)
	for name, labels := range map[string][]string{
		"adit_pool_tunnels":                     {},
		"adit_certificate_renewal_failures":     {"identity"},
		"adit_capture_repairs_total":            {"kind", "pod"},
		"adit_handshake_duration_seconds_count": {"direction", "result"},
		"istio_build":                           {"component", "tag"},
		"istio_tcp_received_bytes_total":        nil, // computed
		"go_goroutines":                         {},
	} {
		m, ok := got[name]
		if !ok {
			t.Errorf("%s is not found", name)
			continue
		}
		if slices.Sort(m.labels); m.known && !slices.Equal(m.labels, labels) {
			t.Errorf("%s has labels %q, want %q", name, m.labels, labels)
		}
		if m.known != (labels != nil) {
			t.Errorf("%s: labels known: %v", name, m.known)
		}
	}
	if _, ok := got["adit_handshake_duration_seconds"]; ok {
		t.Error("a histogram has no series of its plain name")
	}
}
