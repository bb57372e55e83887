package mesh

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// FieldError is one mistake in a world file.
type FieldError struct {
	File         string
	Line, Column int    // from 1; 0 = the file as a whole
	Field        string // path of the field, "" = the document
	Message      string // what, and what to do
}

func (e *FieldError) Error() string {
	at := e.File
	if e.Line > 0 {
		at = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
	}
	if e.Field != "" {
		at += ": " + e.Field
	}
	return at + ": " + e.Message
}

func position(n ast.Node) (line, column int) {
	if n == nil {
		return 0, 0
	}
	// A mapping's own token is a colon; its first key is where one looks.
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line, t.Position.Column
	}
	return 0, 0
}

func kindOf(n ast.Node) string {
	switch v := n.(type) {
	case nil, *ast.NullNode:
		return "empty"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return "the text " + quote(v.Value)
	case *ast.LiteralNode:
		return "a block of text"
	case *ast.IntegerNode:
		return "the number " + v.Token.Value
	case *ast.FloatNode:
		return "the number " + v.Token.Value
	case *ast.BoolNode:
		return "the boolean " + v.Token.Value
	}
	if t := n.GetToken(); t != nil && t.Type != token.UnknownType {
		return "a YAML " + t.Type.String()
	}
	return "something else"
}

// nearest is the field that a mistyped key most likely stands for, "" if none
// is close.
func nearest(key string, fields []string) string {
	best, distance := "", 3
	for _, f := range fields {
		if strings.EqualFold(strings.ReplaceAll(key, "_", ""), f) {
			return f
		}
		if d := editDistance(strings.ToLower(key), strings.ToLower(f)); d < distance {
			best, distance = f, d
		}
	}
	return best
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	if max(len(a), len(b)) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
