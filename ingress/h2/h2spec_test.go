package h2

import (
	"context"
	"encoding/xml"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// h2specDeviations are the tests of h2spec that are not passed, and why.
var h2specDeviations = map[string]string{}

func TestH2spec(t *testing.T) {
	bin, _ := filepath.Abs("../../.tools/h2spec")
	if _, err := os.Stat(bin); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v; `make setup` installs it", err)
		}
		t.Skipf("%v; `make setup` installs it", err)
	}
	addr := secure(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/plain")
		io.WriteString(w, "a page\n")
	})
	_, port, _ := net.SplitHostPort(addr)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	report := filepath.Join(t.TempDir(), "report.xml")
	out, err := exec.CommandContext(ctx, bin, "-h", "127.0.0.1", "-p", port, "-t", "-k", "-S", "-o", "1", "-j", report).CombinedOutput()
	raw, rerr := os.ReadFile(report)
	if rerr != nil {
		t.Fatalf("h2spec: %v, %v\n%s", err, rerr, out)
	}
	var suites struct {
		Suites []struct {
			Cases []struct {
				Package string    `xml:"package,attr"`
				Name    string    `xml:"classname,attr"`
				Failure *struct{} `xml:"failure"`
				Error   *struct{} `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(raw, &suites); err != nil {
		t.Fatal(err)
	}
	ran, failed := 0, map[string]bool{}
	for _, s := range suites.Suites {
		for _, c := range s.Cases {
			if c.Skipped != nil {
				continue
			}
			ran++
			if c.Failure == nil && c.Error == nil {
				continue
			}
			failed[c.Name] = true
			if why, ok := h2specDeviations[c.Name]; ok {
				t.Logf("%s %q: %s", c.Package, c.Name, why)
			} else {
				t.Errorf("%s %q failed", c.Package, c.Name)
			}
		}
	}
	if ran < 140 {
		t.Errorf("h2spec ran %d tests, expected at least 140", ran)
	}
	for name := range h2specDeviations {
		if !failed[name] {
			t.Errorf("%q passes now: take it out of the list", name)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}
