package accesslog

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// piece is a literal, or an operator.
type piece struct {
	literal string
	op      *operator
}

// parse reads a format: %NAME%, %NAME(ARGUMENT)%, %NAME(ARGUMENT):LENGTH%, %% and
// literal text.
func parse(format string) ([]piece, error) {
	var pieces []piece
	literal := ""
	for rest := format; rest != ""; {
		before, after, found := strings.Cut(rest, "%")
		literal += before
		if !found {
			break
		}
		at := len(format) - len(after) // counted from 1
		if strings.HasPrefix(after, "%") {
			literal += "%"
			rest = after[1:]
			continue
		}
		name, arg, length, after, err := command(after)
		if err != nil {
			return nil, fmt.Errorf("column %d: %w", at, err)
		}
		op, err := compile(name, arg)
		if err != nil {
			return nil, fmt.Errorf("column %d: %w", at, err)
		}
		op.limit = length
		if literal != "" {
			pieces = append(pieces, piece{literal: literal})
			literal = ""
		}
		pieces = append(pieces, piece{op: op})
		rest = after
	}
	if literal != "" {
		pieces = append(pieces, piece{literal: literal})
	}
	return pieces, nil
}

// argument is what stands in parentheses; given tells () from nothing.
type argument struct {
	text  string
	given bool
}

// command reads an operator behind its percent sign.
func command(s string) (name string, arg argument, length int, rest string, err error) {
	n := 0
	for n < len(s) && (s[n] == '_' || 'A' <= s[n] && s[n] <= 'Z' || '0' <= s[n] && s[n] <= '9') {
		n++
	}
	name, rest = s[:n], s[n:]
	if name == "" {
		return "", arg, 0, "", fmt.Errorf("%q begins no operator; a percent sign itself is written %%%%", short("%"+s))
	}
	if strings.HasPrefix(rest, "(") {
		var closed bool
		arg.given = true
		arg.text, rest, closed = strings.Cut(rest[1:], ")")
		if !closed {
			return "", arg, 0, "", fmt.Errorf("%%%s( has no closing parenthesis", short(name))
		}
	}
	if strings.HasPrefix(rest, ":") {
		digits := strings.TrimLeft(rest[1:], "0123456789")
		text := rest[1 : len(rest)-len(digits)]
		length, err = strconv.Atoi(text)
		if err != nil || length < 1 {
			return "", arg, 0, "", fmt.Errorf("%%%s: length %q is not a positive number", short(name), short(text))
		}
		rest = digits
	}
	if !strings.HasPrefix(rest, "%") {
		return "", arg, 0, "", fmt.Errorf("%%%s has no closing percent sign; a percent sign itself is written %%%%", short(name))
	}
	return name, arg, length, rest[1:], nil
}

// short is what an error repeats of a format.
func short(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

func compile(name string, arg argument) (*operator, error) {
	if make, ok := withArgument[name]; ok {
		return make(name, arg)
	}
	op, ok := operators[name]
	if !ok {
		return nil, fmt.Errorf("unknown operator %%%s%%; the nearest are %s", short(name), strings.Join(nearest(name), ", "))
	}
	if arg.given {
		return nil, fmt.Errorf("%%%s%% takes no argument, has %q", name, short(arg.text))
	}
	copied := op
	return &copied, nil
}

// nearest returns the three operators that are spelled most alike.
func nearest(name string) []string {
	var names []string
	for n := range operators {
		names = append(names, n)
	}
	for n := range withArgument {
		names = append(names, n)
	}
	far := func(n string) int {
		if strings.HasPrefix(n, name) {
			return 1 // half written
		}
		return distance(name, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(far(a), far(b)), strings.Compare(a, b))
	})
	names = names[:3]
	for i, n := range names {
		names[i] = "%" + n + "%"
	}
	return names
}

// distance is Levenshtein's. What is longer than any operator is as far from one
// as from another.
func distance(a, b string) int {
	a = a[:min(len(a), 64)]
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
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
