package agent

import (
	"errors"
	"fmt"
	"strings"
)

// ConfigError is a configuration that the agent cannot run with: a file that
// cannot be read or understood, or values that make no sense. Trying again does
// not help; changing the file does.
type ConfigError struct {
	// Name is the file's name.
	Name string
	// Problems are everything found, in order of their place in the file.
	Problems []Problem
	// Err is set instead of Problems if the file was not even read, or is
	// another one than the configuration.
	Err error
}

// Problem is one mistake in a configuration file.
type Problem struct {
	// Line and Column count from 1; 0 means that the problem has no place of
	// its own.
	Line, Column int
	// Field is the path of the field, such as encapsulate[0].peer, "" if none.
	Field   string
	Message string
	// Source is the line of the file.
	Source string
	// Width is how many characters from Column on are to blame.
	Width int
}

// Error lists the problems as a compiler does: one per paragraph, with the line
// and a mark under its culprit.
func (e *ConfigError) Error() string {
	if e.Err != nil {
		return e.Err.Error()
	}
	var sb strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			sb.WriteByte('\n')
		}
		p.write(&sb, e.Name)
	}
	return sb.String()
}

func (e *ConfigError) Unwrap() error { return e.Err }

func (p Problem) write(sb *strings.Builder, name string) {
	sb.WriteString(name)
	if p.Line > 0 {
		fmt.Fprintf(sb, ":%d:%d", p.Line, p.Column)
	}
	sb.WriteString(": ")
	if p.Field != "" {
		sb.WriteString(p.Field)
		sb.WriteString(": ")
	}
	sb.WriteString(p.Message)
	if p.Source == "" {
		return
	}
	number := fmt.Sprintf("%5d", p.Line)
	fmt.Fprintf(sb, "\n%s | %s\n%s | %s%s", number, p.Source,
		strings.Repeat(" ", len(number)), pad(p.Source, p.Column-1), strings.Repeat("^", max(p.Width, 1)))
}

// pad is as wide as the first n characters of line, tabs included.
func pad(line string, n int) string {
	var sb strings.Builder
	for i, r := range []rune(line) {
		if i >= n {
			break
		}
		if r == '\t' {
			sb.WriteByte('\t')
		} else {
			sb.WriteByte(' ')
		}
	}
	return sb.String()
}

// IsConfigError reports whether err is about the configuration, rather than
// about running with it.
func IsConfigError(err error) bool {
	var ce *ConfigError
	return errors.As(err, &ce)
}
