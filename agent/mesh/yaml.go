package mesh

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
)

const (
	// maxReported bounds the mistakes of one report; what follows from an
	// early one is noise.
	maxReported = 20
	// maxExpanded bounds the values that aliases may add to those written.
	maxExpanded = 100_000
	// maxAliases bounds the aliases that lead from one to the next.
	maxAliases = 16
)

// decoder walks a YAML document strictly and collects mistakes, each with its
// place, instead of stopping at the first.
type decoder struct {
	file    string
	anchors map[string]ast.Node
	errs    []error
	dropped int
	values  int // that may still be visited
}

// at is where a mistake is.
type at struct {
	node ast.Node
	path string
}

func (a at) field(key string) string { return join(a.path, key) }

func join(path, key string) string {
	switch {
	case strings.ContainsAny(key, "./[]\""):
		return fmt.Sprintf("%s[%q]", path, key)
	case path == "":
		return key
	}
	return path + "." + key
}

func (d *decoder) errorf(a at, format string, args ...any) {
	if len(d.errs) >= maxReported {
		d.dropped++
		return
	}
	e := &FieldError{File: d.file, Field: a.path, Message: fmt.Sprintf(format, args...)}
	e.Line, e.Column = position(a.node)
	d.errs = append(d.errs, e)
}

// err is all mistakes in the order in which they stand in the file.
func (d *decoder) err() error {
	slices.SortStableFunc(d.errs, func(a, b error) int {
		x, y := a.(*FieldError), b.(*FieldError)
		return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column))
	})
	if d.dropped > 0 {
		more := &FieldError{File: d.file, Message: fmt.Sprintf("%d more mistakes", d.dropped)}
		return errors.Join(append(d.errs, more)...)
	}
	return errors.Join(d.errs...)
}

// parseYAML returns the single document in data.
func (d *decoder) parseYAML(data []byte) (ast.Node, error) {
	// Each value is at least a byte, and one level may look twice.
	d.values = 2*len(data) + maxExpanded
	tokens := lexer.Tokenize(string(data))
	if t := tooDeep(tokens); t != nil {
		return nil, &FieldError{File: d.file, Line: t.Position.Line, Column: t.Position.Column,
			Message: fmt.Sprintf("nested more than %d levels deep; is a bracket not closed?", maxNesting)}
	}
	// Duplicate keys are found here, where the path is known.
	f, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		e := &FieldError{File: d.file, Message: "not YAML: " + err.Error()}
		var syntax *yaml.SyntaxError
		if errors.As(err, &syntax) {
			e.Message = "not YAML: " + syntax.Message
			if strings.Contains(syntax.Message, "'\t'") {
				e.Message = "not YAML: a tab cannot indent; use spaces"
			}
			if t := syntax.Token; t != nil && t.Position != nil {
				e.Line, e.Column = t.Position.Line, t.Position.Column
			}
		}
		return nil, e
	}
	var body ast.Node
	for _, doc := range f.Docs {
		if doc.Body == nil || isComment(doc.Body) {
			continue
		}
		if body != nil {
			d.errorf(at{node: doc.Body}, "second YAML document; put everything into one")
			return nil, d.err()
		}
		body = doc.Body
	}
	if body == nil {
		// A writer that truncates before it writes must not empty the mesh.
		return nil, &FieldError{File: d.file, Message: "the file is empty; an empty world is written as workloads: []"}
	}
	d.findAnchors(body)
	return body, nil
}

func isComment(n ast.Node) bool {
	_, ok := n.(*ast.CommentGroupNode)
	return ok
}

func (d *decoder) findAnchors(n ast.Node) {
	d.anchors = map[string]ast.Node{}
	ast.Walk(visitor(func(n ast.Node) {
		if a, ok := n.(*ast.AnchorNode); ok && a.Name != nil {
			d.anchors[a.Name.GetToken().Value] = a.Value
		}
	}), n)
}

type visitor func(ast.Node)

func (v visitor) Visit(n ast.Node) ast.Visitor { v(n); return v }

// resolve follows anchors and aliases, and returns the tag, if any. It returns
// nil once the document has become too large to be meant.
func (d *decoder) resolve(a at) (n ast.Node, tag string) {
	n = a.node
	for range maxAliases {
		switch v := n.(type) {
		case *ast.AnchorNode:
			n = v.Value
		case *ast.AliasNode:
			name := v.Value.GetToken().Value
			target, ok := d.anchors[name]
			if !ok {
				d.errorf(a, "alias *%s has no anchor &%s; define it or write the value out", name, name)
				return nil, ""
			}
			n = target
		case *ast.TagNode:
			tag = strings.TrimLeft(v.Start.Value, "!")
			n = v.Value
		default:
			return n, tag
		}
	}
	d.errorf(a, "anchors and aliases nested too deeply; write the value out")
	return nil, ""
}

// visit counts values, so that aliases that multiply cannot keep the decoder
// busy. An alias inside its own anchor cannot either: the format has no value
// that nests without end.
func (d *decoder) visit(a at) bool {
	d.values--
	if d.values == 0 {
		d.errorf(a, "aliases expand to more than %d values; write the values out", maxExpanded)
	}
	if d.values <= 0 {
		return false
	}
	return true
}

func isNull(n ast.Node) bool {
	_, ok := n.(*ast.NullNode)
	return n == nil || ok
}

// entry is one key of a mapping with its value.
type entry struct {
	key   string
	keyAt at
	value at
}

// entries returns the keys of a mapping, duplicates refused. Nothing at all
// counts as an empty mapping.
func (d *decoder) entries(a at) []entry {
	if !d.visit(a) {
		return nil
	}
	n, _ := d.resolve(a)
	var values []*ast.MappingValueNode
	switch v := n.(type) {
	case *ast.MappingNode:
		values = v.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{v}
	default:
		if !isNull(n) {
			d.errorf(at{n, a.path}, "is %s; want key: value pairs", kindOf(n))
		}
		return nil
	}
	out := make([]entry, 0, len(values))
	first := make(map[string]ast.Node, len(values))
	for _, v := range values {
		if v.Key == nil || v.Key.IsMergeKey() {
			d.errorf(at{v.Key, a.path}, "merge keys (<<) are not supported; write the keys out")
			continue
		}
		keyNode, _ := d.resolve(at{v.Key, a.path})
		key, ok := scalarText(keyNode)
		if !ok {
			d.errorf(at{v.Key, a.path}, "a key is %s; want a name or a number", kindOf(keyNode))
			continue
		}
		path := join(a.path, key)
		if prev, ok := first[key]; ok {
			line, _ := position(prev)
			d.errorf(at{v.Key, path}, "duplicate key, first on line %d; remove one of the two", line)
			continue
		}
		first[key] = v.Key
		out = append(out, entry{key, at{v.Key, path}, at{v.Value, path}})
	}
	return out
}

// object returns the keys of a mapping that has the given fields.
func (d *decoder) object(a at, fields []string) []entry {
	all := d.entries(a)
	known := all[:0]
	for _, e := range all {
		if slices.Contains(fields, e.key) {
			known = append(known, e)
			continue
		}
		hint := "known here: " + strings.Join(fields, ", ")
		if near := nearest(e.key, fields); near != "" {
			hint = "did you mean " + near + "?"
		}
		d.errorf(e.keyAt, "unknown key; %s", hint)
	}
	return known
}

// require reports the fields that are absent.
func (d *decoder) require(a at, got []entry, fields ...string) bool {
	ok := true
	for _, f := range fields {
		if !slices.ContainsFunc(got, func(e entry) bool { return e.key == f }) {
			d.errorf(a, "%s is missing; add it", f)
			ok = false
		}
	}
	return ok
}

// list returns the items of a sequence. Nothing at all counts as an empty one.
func (d *decoder) list(a at) []at {
	if !d.visit(a) {
		return nil
	}
	n, _ := d.resolve(a)
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if !isNull(n) {
			d.errorf(at{n, a.path}, "is %s; want a list", kindOf(n))
		}
		return nil
	}
	out := make([]at, len(seq.Values))
	for i, v := range seq.Values {
		out[i] = at{v, fmt.Sprintf("%s[%d]", a.path, i)}
	}
	return out
}

func (d *decoder) str(a at) string {
	if !d.visit(a) {
		return ""
	}
	n, _ := d.resolve(a)
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value
	case *ast.LiteralNode:
		return v.Value.Value
	case *ast.NullNode, nil:
		d.errorf(a, `has no value; write "" or leave the key out`)
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		d.errorf(a, "is %s; want text, put it in quotes", kindOf(n))
	default:
		d.errorf(a, "is %s; want text", kindOf(n))
	}
	return ""
}

func (d *decoder) boolean(a at) bool {
	if !d.visit(a) {
		return false
	}
	n, _ := d.resolve(a)
	if v, ok := n.(*ast.BoolNode); ok {
		return v.Value
	}
	d.errorf(a, "is %s; want true or false", kindOf(n))
	return false
}

func (d *decoder) number(a at, lo, hi uint64) uint64 {
	if !d.visit(a) {
		return 0
	}
	n, _ := d.resolve(a)
	v, ok := n.(*ast.IntegerNode)
	if !ok {
		d.errorf(a, "is %s; want a number", kindOf(n))
		return 0
	}
	var u uint64
	switch x := v.Value.(type) {
	case uint64:
		u = x
	case int64:
		if u = uint64(x); x < 0 {
			u = math.MaxUint64 // below lo and above hi are one mistake
		}
	}
	if u < lo || u > hi {
		d.errorf(a, "is %s; want a number from %d to %d", v.Token.Value, lo, hi)
		return 0
	}
	return u
}

func (d *decoder) port(a at) uint16 { return uint16(d.number(a, 1, math.MaxUint16)) }

func scalarText(n ast.Node) (string, bool) {
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, true
	case *ast.IntegerNode:
		return fmt.Sprint(v.Value), true
	case *ast.LiteralNode:
		return v.Value.Value, true
	case *ast.BoolNode, *ast.FloatNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}
