package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/adit-mesh/adit/ingress/file/schema"
)

// defaultNamespace is that of objects which name none, as kubectl has it.
const defaultNamespace = "default"

// decoded is one object of a file.
type decoded struct {
	key key
	// object as an API server would keep it. It is not changed any more.
	object object
	kind   *kind
	at     place
}

// place is where an object stands.
type place struct {
	file     string
	document int // from 1
	line     int // of the document's first line, from 1
}

// document is one of a YAML stream's.
type document struct {
	text string
	line int
}

// split cuts a stream at its document markers. A line that begins with --- is
// one wherever it is: YAML allows it nowhere else.
func split(stream string) (docs []document) {
	var b strings.Builder
	first, n := 1, 0
	flush := func(next int) {
		if text := b.String(); strings.TrimSpace(text) != "" {
			docs = append(docs, document{text, first})
		}
		b.Reset()
		first = next
	}
	for l := range strings.Lines(strings.TrimPrefix(stream, "\ufeff")) {
		n++
		rest, marker := strings.CutPrefix(l, "---")
		end := strings.TrimRight(l, " \t\r\n") == "..."
		switch {
		case end:
			flush(n + 1)
		case marker && (rest == "" || strings.ContainsRune(" \t\r\n", rune(rest[0]))):
			flush(n)
			b.WriteString("   " + rest)
		default:
			b.WriteString(l)
		}
	}
	flush(n)
	return docs
}

// decode reads one document: an object, or a List of them. Of what is wrong,
// every problem is returned.
func decode(doc document, at place) ([]decoded, []Problem) {
	at.line = doc.line
	fail := func(format string, args ...any) ([]decoded, []Problem) {
		return nil, []Problem{{File: at.file, Document: at.document, Line: at.line, Message: fmt.Sprintf(format, args...)}}
	}
	raw, err := yaml.YAMLToJSONStrict([]byte(doc.text))
	if err != nil {
		line, text := relocate(err, doc.line)
		at.line = line
		return fail("not YAML: %s", text)
	}
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return nil, nil // nothing but comments
	}
	var v any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(raw, &v); err != nil {
		return fail("%v", err)
	}
	tree, ok := v.(map[string]any)
	if !ok {
		return fail("an object is wanted, with apiVersion, kind and metadata")
	}
	l := &lines{text: doc.text, first: doc.line}
	if tree["apiVersion"] == "v1" && tree["kind"] == "List" {
		items, ok := tree["items"].([]any)
		if !ok {
			return fail("a List without items")
		}
		var all []decoded
		var bad []Problem
		for i, item := range items {
			path := []any{"items", i}
			tree, ok := item.(map[string]any)
			if !ok {
				bad = append(bad, Problem{File: at.file, Document: at.document, Line: l.of(path), Field: schema.Field(path), Message: "is no object"})
				continue
			}
			d, p := decodeObject(tree, at, l, path)
			if bad = append(bad, p...); d != nil {
				all = append(all, *d)
			}
		}
		return all, bad
	}
	d, bad := decodeObject(tree, at, l, nil)
	if d == nil {
		return nil, bad
	}
	return []decoded{*d}, bad
}

// decodeObject reads one object. It is nil if there is a problem, unless that
// only says that an object is not looked at.
func decodeObject(tree map[string]any, at place, l *lines, prefix []any) (*decoded, []Problem) {
	var bad []Problem
	apiVersion, _ := tree["apiVersion"].(string)
	name, _ := tree["kind"].(string)
	k := key{kind: name}
	say := func(path []any, format string, args ...any) {
		path = slices.Concat(prefix, path)
		bad = append(bad, Problem{
			File: at.file, Document: at.document, Line: l.of(path),
			Object: k.named(), Field: schema.Field(path), Message: fmt.Sprintf(format, args...),
		})
	}
	group, version, slash := strings.Cut(apiVersion, "/")
	if !slash {
		group, version = "", apiVersion
	}
	kd := groups[group][name]
	switch {
	case apiVersion == "" || name == "":
		say(nil, "apiVersion and kind are required")
		return nil, bad
	case kd == nil && ours(group):
		say([]any{"kind"}, "%s has no kind %s that is served here", apiVersion, name)
		return nil, bad
	case kd == nil:
		say([]any{"kind"}, "%s %s is nothing that the edge reads; it is left out", apiVersion, name)
		bad[0].Harmless = true
		return nil, bad
	case !kd.reads(version):
		say([]any{"apiVersion"}, "%s is not read; use one of %s", apiVersion, strings.Join(kd.versions, ", "))
		return nil, bad
	}
	delete(tree, "status")
	if m, ok := tree["metadata"].(map[string]any); ok {
		for _, field := range [...]string{"managedFields", "resourceVersion", "generation", "uid", "selfLink", "ownerReferences", "finalizers"} {
			delete(m, field)
		}
	}
	if kd.schema {
		for _, p := range schema.For(name, version).Apply(tree) {
			say(p.Path, "%s", p.Message)
		}
		tree["apiVersion"] = group + "/" + kd.versions[0]
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		say(nil, "%v", err)
		return nil, bad
	}
	o := kd.make()
	strict, err := kjson.UnmarshalStrict(raw, o)
	if err != nil && len(bad) == 0 {
		say(fieldOf(err), "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	for _, err := range strict {
		// The schema has said so already of all but the metadata.
		if path := fieldOf(err); !kd.schema || len(path) > 0 && path[0] == "metadata" {
			say(path, "there is no such field")
		}
	}
	if len(bad) > 0 {
		return nil, bad
	}
	k = identify(o, kd, name, say)
	if kd.finish != nil {
		for _, p := range kd.finish(o) {
			say(p.Path, "%s", p.Message)
		}
	}
	if len(bad) > 0 {
		return nil, bad
	}
	return &decoded{key: k, object: o, kind: kd, at: at}, nil
}

// ours are the groups whose objects are for the edge, so that a kind which is
// not known is a mistake.
func ours(group string) bool {
	return group == schema.Group || group == "discovery.k8s.io"
}

// identify fills in the namespace and checks names.
func identify(o object, kd *kind, kind string, say func([]any, string, ...any)) key {
	switch {
	case !kd.cluster && o.GetNamespace() == "":
		o.SetNamespace(defaultNamespace)
	case kd.cluster && o.GetNamespace() != "":
		say([]any{"metadata", "namespace"}, "a %s is in no namespace", kind)
	}
	switch name := o.GetName(); {
	case name == "" && o.GetGenerateName() != "":
		say([]any{"metadata", "generateName"}, "only an API server makes names; give metadata.name")
	case name == "":
		say([]any{"metadata", "name"}, "is required")
	default:
		for _, msg := range validation.IsDNS1123Subdomain(name) {
			say([]any{"metadata", "name"}, "%q: %s", name, msg)
		}
	}
	for _, msg := range apivalidation.ValidateNamespaceName(o.GetNamespace(), false) {
		if o.GetNamespace() != "" {
			say([]any{"metadata", "namespace"}, "%q: %s", o.GetNamespace(), msg)
		}
	}
	return key{kind, o.GetNamespace(), o.GetName()}
}

// named is the key for a problem: empty until there is a name.
func (k key) named() string {
	if k.name == "" {
		return k.kind
	}
	return k.String()
}

var inText = regexp.MustCompile(`^line (\d+): `)

// prefixes are what the YAML packages put before what they have to say.
var prefixes = []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:\n  "}

// relocate takes the line out of what the YAML parser says of a document, and
// makes it one of the file.
func relocate(err error, first int) (line int, text string) {
	text = err.Error()
	for _, p := range prefixes {
		text = strings.TrimPrefix(text, p)
	}
	text = strings.ReplaceAll(text, "\n", ";")
	m := inText.FindStringSubmatch(text)
	if m == nil {
		return first, text
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return first, text
	}
	return first + n - 1, text[len(m[0]):]
}

var quotedField = regexp.MustCompile(`(?:unknown|duplicate) field "([^"]+)"`)

// fieldOf takes the path out of what the JSON decoder says.
func fieldOf(err error) (path []any) {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return parseField(t.Field)
	}
	if m := quotedField.FindStringSubmatch(err.Error()); m != nil {
		return parseField(m[1])
	}
	return nil
}

// parseField reads a.b[0].c.
func parseField(s string) (path []any) {
	for part := range strings.SplitSeq(s, ".") {
		name, rest, _ := strings.Cut(part, "[")
		if name != "" {
			path = append(path, name)
		}
		for _, index := range strings.FieldsFunc(rest, func(r rune) bool { return r == '[' || r == ']' }) {
			if i, err := strconv.Atoi(index); err == nil {
				path = append(path, i)
			}
		}
	}
	return path
}

// lines finds the lines of fields. The document is parsed once more when the
// first is asked for.
type lines struct {
	text  string
	first int
	root  *yamlv3.Node
}

// of is the line of a field in the file, or of the nearest above it.
func (l *lines) of(path []any) int {
	if l.root == nil {
		l.root = new(yamlv3.Node)
		if err := yamlv3.NewDecoder(strings.NewReader(l.text)).Decode(l.root); err != nil && !errors.Is(err, io.EOF) {
			l.root = new(yamlv3.Node)
		}
	}
	n := l.root
	if n.Kind == yamlv3.DocumentNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	line := max(n.Line, 1)
	for _, step := range path {
		next, at := child(n, step)
		if next == nil {
			break
		}
		n, line = next, at
	}
	return l.first + line - 1
}

func child(n *yamlv3.Node, step any) (*yamlv3.Node, int) {
	if n.Kind == yamlv3.AliasNode {
		n = n.Alias
	}
	switch step := step.(type) {
	case int:
		if n.Kind == yamlv3.SequenceNode && step < len(n.Content) {
			return n.Content[step], n.Content[step].Line
		}
	case string:
		if n.Kind != yamlv3.MappingNode {
			return nil, 0
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == step {
				return n.Content[i+1], n.Content[i].Line
			}
		}
	}
	return nil, 0
}
