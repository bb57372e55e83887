package file

import (
	"fmt"
	"strings"
)

// Problem is something that is wrong with a file, or in it.
type Problem struct {
	File     string // within the directory
	Document int    // from 1; 0 = the file as a whole
	Line     int    // from 1; 0 = not known
	Object   string // kind namespace/name, as far as known
	Field    string // as in spec.rules[0].matches; "" = the object as a whole
	Message  string
	// Harmless says that nothing is kept from being used: an object of a kind
	// that the edge does not read.
	Harmless bool
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Document > 0 {
		fmt.Fprintf(&b, " (document %d)", p.Document)
	}
	for _, part := range [...]string{p.Object, p.Field} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	b.WriteString(": " + p.Message)
	return b.String()
}
