package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// report writes the steps of the demo and counts what failed. It is used by
// one goroutine.
type report struct {
	out    io.Writer
	color  bool
	ended  func() bool // nil-able: the run was interrupted, and nothing counts any more
	steps  int
	passed int
	failed int
}

const (
	bold  = "\x1b[1m"
	dim   = "\x1b[2m"
	green = "\x1b[32m"
	red   = "\x1b[31m"

	// Claims are padded to this many columns so that evidence lines up.
	claimWidth = 43
	// Quoted lines are cut here: the log files hold the whole of them.
	quoteWidth = 150
)

func (r *report) paint(style, s string) string {
	if !r.color {
		return s
	}
	return style + s + "\x1b[0m"
}

func (r *report) line(s string) { fmt.Fprintln(r.out, s) }

// step opens the next numbered step.
func (r *report) step(title string) {
	r.steps++
	r.line("")
	r.line(r.paint(bold, fmt.Sprintf("%2d  %s", r.steps, title)))
}

// does says what is being tried, as a command or a plain fact.
func (r *report) does(format string, args ...any) {
	r.line("    " + r.paint(dim, "› "+fmt.Sprintf(format, args...)))
}

// check states a claim and the evidence for it, or against it.
func (r *report) check(ok bool, claim, format string, args ...any) {
	if r.ended != nil && r.ended() {
		return
	}
	mark := r.paint(green, "✓")
	if ok {
		r.passed++
	} else {
		r.failed++
		mark = r.paint(red, "✗")
		claim += ": NO"
	}
	evidence := fmt.Sprintf(format, args...)
	if n := utf8.RuneCountInString(claim); n < claimWidth && evidence != "" {
		claim += strings.Repeat(" ", claimWidth-n)
	}
	r.line(strings.TrimRight("    "+mark+" "+claim+"  "+evidence, " "))
}

// quote shows a line from a log or a metrics page as it was found.
func (r *report) quote(from, s string) {
	s = strings.TrimSpace(s)
	if utf8.RuneCountInString(s) > quoteWidth {
		s = string([]rune(s)[:quoteWidth-1]) + "…"
	}
	r.line("      " + r.paint(dim, from+" │ "+s))
}
