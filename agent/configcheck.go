package agent

import (
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// The decoder stops at the first key it does not know and offers no better one.
// So the shape of a file is checked first, against the Go type it is for, and
// every misfit is reported.

// check compares file with the type of v and notes where each field stands.
func (d *document) check(file *ast.File, v any) {
	d.places = make(map[string]place)
	docs := file.Docs[:0:0]
	for _, doc := range file.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			docs = append(docs, doc)
		}
	}
	if len(docs) > 1 {
		d.add(placeOf(docs[1].Body), "", "a second document; the configuration is one")
		return
	}
	if len(docs) == 1 {
		d.checkNode(docs[0].Body, reflect.TypeOf(v), "")
	}
}

var durationType = reflect.TypeFor[time.Duration]()

func (d *document) checkNode(n ast.Node, t reflect.Type, path string) {
	if a, ok := n.(*ast.AnchorNode); ok {
		n = a.Value
	}
	if n == nil {
		return
	}
	if path != "" {
		d.places[path] = placeOf(n)
	}
	switch n.Type() {
	case ast.NullType: // a key without a value keeps the default
		return
	case ast.AliasType, ast.TagType:
		d.add(placeOf(n), path, "aliases and tags are not used here; write the value out")
		return
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == durationType:
		d.checkDuration(n, path)
	case t.Kind() == reflect.Struct:
		d.checkMapping(n, path, t)
	case t.Kind() == reflect.Map:
		d.checkMapping(n, path, t)
	case t.Kind() == reflect.Slice:
		d.checkSequence(n, path, t)
	case t.Kind() == reflect.String:
		if _, ok := n.(ast.ScalarNode); !ok || n.Type() == ast.BoolType {
			d.add(placeOf(n), path, fmt.Sprintf("want a string, have %s", kindOf(n)))
		}
	case t.Kind() == reflect.Bool:
		if n.Type() != ast.BoolType {
			d.add(placeOf(n), path, fmt.Sprintf("want true or false, have %s", kindOf(n)))
		}
	}
}

func (d *document) checkDuration(n ast.Node, path string) {
	text := n.GetToken().Value
	if n.Type() != ast.StringType {
		hint := "want a duration such as 30s or 5m, have " + kindOf(n)
		if n.Type() == ast.IntegerType {
			hint += fmt.Sprintf("; did you mean %ss?", text)
		}
		d.add(placeOf(n), path, hint)
		return
	}
	if _, err := time.ParseDuration(text); err != nil {
		d.add(placeOf(n), path, fmt.Sprintf("%q is not a duration; write 30s, 5m or 1h30m", text))
	}
}

func (d *document) checkSequence(n ast.Node, path string, t reflect.Type) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.add(placeOf(n), path, fmt.Sprintf("want a list, have %s; begin each entry with \"- \"", kindOf(n)))
		return
	}
	for i, v := range seq.Values {
		d.checkNode(v, t.Elem(), path+"["+strconv.Itoa(i)+"]")
	}
}

// checkMapping checks the keys and values of a mapping for a struct or a map.
func (d *document) checkMapping(n ast.Node, path string, t reflect.Type) {
	var entries []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		entries = n.Values
	case *ast.MappingValueNode:
		entries = []*ast.MappingValueNode{n}
	default:
		want := "want keys and values"
		if t.Kind() == reflect.Struct {
			want = "want a mapping with " + strings.Join(fieldNames(t), ", ")
		}
		d.add(placeOf(n), path, want+", have "+kindOf(n))
		return
	}
	seen := make(map[string]place)
	for _, e := range entries {
		key := e.Key.GetToken()
		name, at := key.Value, placeOfToken(key)
		full := name
		if path != "" {
			full = path + "." + name
		}
		if before, dup := seen[name]; dup {
			d.add(at, "", fmt.Sprintf("%q is set twice; it was set on line %d already", full, before.line))
			continue
		}
		seen[name] = at
		elem, ok := fieldType(t, name)
		if !ok {
			d.add(at, "", unknownField(path, name, fieldNames(t)))
			continue
		}
		d.checkNode(e.Value, elem, full)
	}
}

func unknownField(path, name string, known []string) string {
	msg := fmt.Sprintf("unknown field %q", name)
	if path != "" {
		msg += " in " + path
	}
	if near := nearest(name, known); near != "" {
		return msg + fmt.Sprintf("; did you mean %q?", near)
	}
	return msg + "; known are " + strings.Join(known, ", ")
}

// fieldType is the type of what stands under a key of t.
func fieldType(t reflect.Type, key string) (reflect.Type, bool) {
	if t.Kind() == reflect.Map {
		return t.Elem(), true
	}
	for f := range t.Fields() {
		if f.Tag.Get("yaml") == key {
			return f.Type, true
		}
	}
	return nil, false
}

func fieldNames(t reflect.Type) []string {
	var names []string
	if t.Kind() == reflect.Struct {
		for f := range t.Fields() {
			names = append(names, f.Tag.Get("yaml"))
		}
	}
	return names
}

// nearest is the name that was probably meant, "" if none is near.
func nearest(name string, known []string) string {
	best, bestDistance := "", max(2, len(name)/3)+1
	for _, k := range known {
		if dist := distance(strings.ToLower(name), strings.ToLower(k)); dist < bestDistance {
			best, bestDistance = k, dist
		}
	}
	return best
}

// distance is how many insertions, deletions, substitutions and swaps of
// neighbours lead from a to b (optimal string alignment).
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}

func kindOf(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.IntegerType, ast.FloatType:
		return "the number " + n.GetToken().Value
	case ast.BoolType:
		return "the boolean " + n.GetToken().Value
	case ast.StringType:
		return fmt.Sprintf("the string %q", n.GetToken().Value)
	}
	return strings.ToLower(n.Type().YAMLName())
}

func placeOf(n ast.Node) place {
	switch n := n.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 {
			return placeOf(n.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return placeOf(n.Key)
	}
	return placeOfToken(n.GetToken())
}

func placeOfToken(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{}
	}
	width := len([]rune(strings.TrimSpace(t.Origin)))
	if strings.Contains(strings.TrimSpace(t.Origin), "\n") {
		width = 1
	}
	return place{line: t.Position.Line, column: t.Position.Column, width: width}
}

// addSyntax reports an error of the YAML library at its place.
func (d *document) addSyntax(err error) {
	var located yaml.Error
	if errors.As(err, &located) && located.GetToken() != nil {
		d.add(placeOfToken(located.GetToken()), "", located.GetMessage())
		return
	}
	d.add(place{}, "", err.Error())
}
