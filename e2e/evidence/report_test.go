package evidence

import (
	"strings"
	"testing"
)

func TestReportCountsAndNeverHidesAFailure(t *testing.T) {
	var b strings.Builder
	r := &Report{Out: &b}
	r.Step("A step")
	r.Check(true, "holds", "seen %d times", 2)
	r.Check(false, "does not hold", "")
	r.Quote("log", strings.Repeat("x", 500)+"\n")
	got := b.String()
	for _, want := range []string{" 1  A step\n", "✓ holds", "seen 2 times\n", "✗ does not hold: NO\n", "…\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if r.Passed != 1 || r.Failed != 1 {
		t.Errorf("counted %d passed and %d failed, want one each", r.Passed, r.Failed)
	}
	if strings.Contains(got, "\x1b") {
		t.Error("escape sequences without colour: a log file would keep them")
	}
	for _, line := range strings.Split(got, "\n") {
		if len([]rune(line)) > quoteWidth+20 {
			t.Errorf("line of %d columns", len([]rune(line)))
		}
	}
}
