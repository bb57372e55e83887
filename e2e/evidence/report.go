package evidence

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Report writes the steps of a demo and counts the claims that held and those
// that did not. It is used by one goroutine.
type Report struct {
	Out            io.Writer
	Color          bool
	Ended          func() bool // nil-able: the run was interrupted, and nothing counts any more
	Passed, Failed int

	steps int
}

// Styles of Paint.
const (
	Bold  = "\x1b[1m"
	Dim   = "\x1b[2m"
	Green = "\x1b[32m"
	Red   = "\x1b[31m"
)

const (
	// Claims are padded to this many columns so that evidence lines up.
	claimWidth = 43
	// Quoted lines are cut here: the log files hold the whole of them.
	quoteWidth = 150
)

// Paint is s in a style, if the report has colour.
func (r *Report) Paint(style, s string) string {
	if !r.Color {
		return s
	}
	return style + s + "\x1b[0m"
}

// Line writes s.
func (r *Report) Line(s string) { fmt.Fprintln(r.Out, s) }

// Step opens the next numbered step.
func (r *Report) Step(title string) {
	r.steps++
	r.Line("")
	r.Line(r.Paint(Bold, fmt.Sprintf("%2d  %s", r.steps, title)))
}

// Does says what is being tried, as a command or a plain fact.
func (r *Report) Does(format string, args ...any) {
	r.Line("    " + r.Paint(Dim, "› "+fmt.Sprintf(format, args...)))
}

// Check states a claim and the evidence for it, or against it.
func (r *Report) Check(ok bool, claim, format string, args ...any) {
	if r.Ended != nil && r.Ended() {
		return
	}
	mark := r.Paint(Green, "✓")
	if ok {
		r.Passed++
	} else {
		r.Failed++
		mark = r.Paint(Red, "✗")
		claim += ": NO"
	}
	evidence := fmt.Sprintf(format, args...)
	if n := utf8.RuneCountInString(claim); n < claimWidth && evidence != "" {
		claim += strings.Repeat(" ", claimWidth-n)
	}
	r.Line(strings.TrimRight("    "+mark+" "+claim+"  "+evidence, " "))
}

// Quote shows a line from a log or a metrics page as it was found.
func (r *Report) Quote(from, s string) {
	s = strings.TrimSpace(s)
	if utf8.RuneCountInString(s) > quoteWidth {
		s = string([]rune(s)[:quoteWidth-1]) + "…"
	}
	r.Line("      " + r.Paint(Dim, from+" │ "+s))
}
