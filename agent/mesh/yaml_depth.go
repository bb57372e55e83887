package mesh

import "github.com/goccy/go-yaml/token"

// maxNesting is far beyond what the format needs. The YAML parser recurses and
// keeps a path for each value, so a file of nothing but brackets would cost it
// memory by the square of its length.
const maxNesting = 64

// tooDeep returns the first token that nests deeper than maxNesting, nil if
// none does.
func tooDeep(tokens token.Tokens) *token.Token {
	flow := 0         // open [ and {
	prefixes := 0     // !tag, &anchor and ? before one value
	var columns []int // of the block collections that are open, ever further right
	block := func(t *token.Token) {
		column := t.Position.Column
		for len(columns) > 0 && columns[len(columns)-1] > column {
			columns = columns[:len(columns)-1]
		}
		if len(columns) == 0 || columns[len(columns)-1] < column {
			columns = append(columns, column)
		}
	}
	var previous *token.Token
	for _, t := range tokens {
		prefix := false
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			flow++
		case token.SequenceEndType, token.MappingEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType:
			if flow == 0 {
				block(t)
			}
		case token.MappingValueType:
			if flow == 0 && previous != nil {
				block(previous) // the key
			}
		case token.TagType, token.AnchorType, token.MappingKeyType:
			prefix = true
			prefixes++
		}
		if !prefix {
			prefixes = 0
		}
		if flow+len(columns)+prefixes > maxNesting {
			return t
		}
		previous = t
	}
	return nil
}
