package schema

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that an API server would refuse.
type Problem struct {
	// Path leads to the field: names of properties, and indices as ints.
	Path    []any
	Message string
}

// Field is the path in the usual notation: spec.rules[0].matches.
func (p Problem) Field() string { return Field(p.Path) }

// Field writes a path in the usual notation.
func Field(path []any) string {
	var b strings.Builder
	for _, step := range path {
		switch step := step.(type) {
		case int:
			b.WriteString("[" + strconv.Itoa(step) + "]")
		case string:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(step)
		}
	}
	return b.String()
}

// Apply fills in the defaults that obj lacks, and returns what is wrong with it,
// fields that the kind does not have included. obj is a whole object as JSON
// decodes it, its integers as int64; kind, apiVersion, metadata and status are
// not looked at.
func (s *Schema) Apply(obj map[string]any) []Problem {
	var c checker
	for _, name := range slices.Sorted(maps.Keys(obj)) {
		switch name {
		case "apiVersion", "kind", "metadata", "status":
		default:
			if s.Properties[name] == nil {
				c.say([]any{name}, "there is no such field")
			}
		}
	}
	s.fill(obj)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if v, ok := obj[name]; ok {
			c.check(s.Properties[name], v, []any{name})
		}
	}
	c.required(s, obj, nil)
	return c.found
}

// fill sets the defaults of an object's missing properties, and of all below
// it. A null that may not be one counts as missing.
func (s *Schema) fill(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, p := range s.Properties {
			old, there := v[name]
			if there && old == nil {
				delete(v, name)
				there = false
			}
			if !there && p.Default != nil {
				v[name] = copied(p.Default)
			}
			if now, ok := v[name]; ok {
				p.fill(now)
			}
		}
		if s.Additional != nil {
			for name, sub := range v {
				if s.Properties[name] == nil {
					s.Additional.fill(sub)
				}
			}
		}
	case []any:
		if s.Items != nil {
			for _, e := range v {
				s.Items.fill(e)
			}
		}
	}
}

// copied is a value of its own, with integers as int64.
func copied(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = copied(e)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = copied(e)
		}
		return out
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	}
	return v
}

// checker collects what is wrong.
type checker struct{ found []Problem }

func (c *checker) say(path []any, format string, args ...any) {
	c.found = append(c.found, Problem{slices.Clone(path), fmt.Sprintf(format, args...)})
}

func (c *checker) check(s *Schema, v any, path []any) {
	if s.Type != "" && typeOf(v) != s.Type && (s.Type != "number" || typeOf(v) != "integer") {
		c.say(path, "is %s, want %s", article(typeOf(v)), article(s.Type))
		return
	}
	if len(s.Enum) > 0 && !slices.ContainsFunc(s.Enum, func(e any) bool { return reflect.DeepEqual(copied(e), v) }) {
		c.say(path, "is %s; it must be one of %s", quoted(v), list(s.Enum))
	}
	switch v := v.(type) {
	case string:
		c.text(s, v, path)
	case int64, float64:
		c.number(s, v, path)
	case []any:
		c.list(s, v, path)
	case map[string]any:
		c.object(s, v, path)
	}
	if len(s.OneOf) > 0 && count(s.OneOf, v) != 1 || len(s.AnyOf) > 0 && count(s.AnyOf, v) == 0 || s.Not != nil && fits(s.Not, v) {
		c.say(path, "%s is in none of the forms that are allowed here", quoted(v))
	}
}

func (c *checker) text(s *Schema, v string, path []any) {
	n := utf8.RuneCountInString(v)
	switch {
	case s.MinLength != nil && n < *s.MinLength:
		if v == "" {
			c.say(path, "must not be empty")
			return
		}
		c.say(path, "has %d characters, fewer than %d", n, *s.MinLength)
	case s.MaxLength != nil && n > *s.MaxLength:
		c.say(path, "has %d characters, more than %d", n, *s.MaxLength)
	}
	if s.pattern != nil && !s.pattern.MatchString(v) {
		c.say(path, "%q does not match %s", v, s.Pattern)
	}
	switch a, err := netip.ParseAddr(v); s.Format {
	case "ipv4":
		if err != nil || !a.Is4() {
			c.say(path, "%q is no IPv4 address", v)
		}
	case "ipv6":
		if err != nil || !a.Is6() {
			c.say(path, "%q is no IPv6 address", v)
		}
	}
}

func (c *checker) number(s *Schema, v any, path []any) {
	f, ok := v.(float64)
	if i, is := v.(int64); is {
		f, ok = float64(i), true
	}
	switch {
	case !ok:
	case s.Minimum != nil && f < *s.Minimum:
		c.say(path, "is %v, less than %v", v, *s.Minimum)
	case s.Maximum != nil && f > *s.Maximum:
		c.say(path, "is %v, more than %v", v, *s.Maximum)
	case s.Format == "int32" && f != float64(int32(f)):
		c.say(path, "is %v, which is no 32-bit number", v)
	}
}

func (c *checker) list(s *Schema, v []any, path []any) {
	switch {
	case s.MinItems != nil && len(v) < *s.MinItems:
		c.say(path, "has %d entries, fewer than %d", len(v), *s.MinItems)
	case s.MaxItems != nil && len(v) > *s.MaxItems:
		c.say(path, "has %d entries, more than %d", len(v), *s.MaxItems)
	}
	if s.Items == nil {
		return
	}
	seen := make(map[string]int)
	for i, e := range v {
		at := append(slices.Clone(path), i)
		c.check(s.Items, e, at)
		if key, ok := s.identity(e); ok {
			if first, twice := seen[key]; twice {
				c.say(at, "is the same as entry %d: %s", first, key)
			} else {
				seen[key] = i
			}
		}
	}
}

// identity is what an entry of a list must not share with another.
func (s *Schema) identity(e any) (string, bool) {
	switch s.ListType {
	case "set":
		return quoted(e), true
	case "map":
		m, ok := e.(map[string]any)
		if !ok {
			return "", false
		}
		var parts []string
		for _, key := range s.ListKeys {
			if v, ok := m[key]; ok {
				parts = append(parts, key+" "+quoted(v))
			}
		}
		return strings.Join(parts, ", "), true
	}
	return "", false
}

func (c *checker) object(s *Schema, v map[string]any, path []any) {
	if s.MaxProperties != nil && len(v) > *s.MaxProperties {
		c.say(path, "has %d entries, more than %d", len(v), *s.MaxProperties)
	}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		at := append(slices.Clone(path), name)
		switch p := cmp.Or(s.Properties[name], s.Additional); {
		case p != nil:
			c.check(p, v[name], at)
		case s.Type == "object":
			c.say(at, "there is no such field%s", nearest(name, s.Properties))
		}
	}
	c.required(s, v, path)
}

func (c *checker) required(s *Schema, v map[string]any, path []any) {
	for _, name := range s.Required {
		if _, ok := v[name]; !ok {
			c.say(append(slices.Clone(path), name), "is required")
		}
	}
}

// nearest suggests a name that differs in nothing but case.
func nearest(name string, among map[string]*Schema) string {
	for other := range among {
		if strings.EqualFold(other, name) {
			return fmt.Sprintf("; is it %s?", other)
		}
	}
	return ""
}

func count(of []*Schema, v any) (n int) {
	for _, s := range of {
		if fits(s, v) {
			n++
		}
	}
	return n
}

func fits(s *Schema, v any) bool {
	var c checker
	c.check(s, v, nil)
	return len(c.found) == 0
}

func typeOf(v any) string {
	switch v := v.(type) {
	case string:
		return "string"
	case bool:
		return "boolean"
	case int64:
		return "integer"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	}
	return "null"
}

// names are what people who write YAML call them.
var names = map[string]string{
	"array": "a list", "object": "a mapping", "string": "a string", "boolean": "true or false",
	"integer": "a whole number", "number": "a number", "null": "nothing",
}

func article(t string) string { return cmp.Or(names[t], t) }

func quoted(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

func list(of []any) string {
	out := make([]string, len(of))
	for i, v := range of {
		out[i] = quoted(v)
	}
	return strings.Join(out, ", ")
}
