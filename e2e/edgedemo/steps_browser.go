package edgedemo

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/e2e/testbed"
)

const browserURL = "https://" + name + "/"

// hasBrowser says whether Chromium can be asked, and notes if it cannot.
func (d *demo) hasBrowser(what string) bool {
	switch _, err := exec.LookPath("chromium"); {
	case d.NoBrowser:
		d.missing = append(d.missing, what+": the browser is left out")
	case err != nil:
		d.missing = append(d.missing, what+": chromium is not installed")
	default:
		return true
	}
	return false
}

// profile makes a home for a browser that trusts the demo's root as it trusts
// what an administrator has installed, and says whether it could.
func (d *demo) profile(ctx context.Context, called string) (home string, trusts bool, err error) {
	home = filepath.Join(d.Dir, called)
	database := filepath.Join(home, ".pki/nssdb")
	if err := os.MkdirAll(database, 0o700); err != nil {
		return "", false, err
	}
	if _, err := exec.LookPath("certutil"); err != nil {
		return home, false, nil
	}
	for _, args := range [][]string{
		{"-N", "--empty-password"},
		{"-A", "-n", "adit demo root", "-t", "C,,", "-i", d.rootFile()},
	} {
		if _, err := run(ctx, d.Client, "certutil", append(args, "-d", "sql:"+database)...); err != nil {
			return "", false, err
		}
	}
	return home, true, nil
}

// resolverRule says where the name is: the namespace has no resolver.
func resolverRule(d *demo) string {
	return fmt.Sprintf("--host-resolver-rules=MAP %s %s", name, d.Outside)
}

func (d *demo) browserAsksOverHTTP3(ctx context.Context) error {
	d.Step("Chromium asks over HTTP/3, and paints what comes")
	if !d.hasBrowser("a page in Chromium over HTTP/3") {
		d.Does("left out")
		return nil
	}
	home, trusts, err := d.profile(ctx, "chromium-told")
	if err != nil {
		return err
	}
	force := "--origin-to-force-quic-on=" + name + ":443"
	flags := []string{force, resolverRule(d)}
	if !trusts {
		c, err := testbed.ReadCertificate(filepath.Join(d.certificates(), "www.crt"))
		if err != nil {
			return err
		}
		flags = append(flags, "--ignore-certificate-errors-spki-list="+testbed.KeyPin(c))
	}
	d.Does("chromium --headless %s %s", force, browserURL)
	b, err := startBrowser(d.Client, home, flags...)
	if err != nil {
		return err
	}
	defer b.Close()
	offset := d.edge.LogOffset()
	v, err := b.visit(ctx, browserURL)
	if err != nil || v.Failed != "" {
		d.Check(false, "Chromium shows the page", "%v%s", orNothing(err), v.Failed)
		return ctx.Err()
	}
	d.Check(v.Status == 200 && v.Protocol == "h3", "Chromium's network stack says h3", "%d over %s, alt-svc: %s", v.Status, v.Protocol, v.Header["alt-svc"])
	d.Check(strings.Contains(v.Text, "Your browser asked over h3"), "so does the page's own script", "%q", firstLine(v.Text))
	d.Check(strings.Contains(v.Text, testbed.EdgeIdentity), "the page shows what the pod saw", "X-Forwarded-Client-Cert and %d lines more", strings.Count(v.Text, "\n"))
	e, err := d.edge.Logged(ctx, offset, func(e testbed.Entry) bool { return strings.Contains(e.Get("user-agent"), "Chrome") })
	d.Check(err == nil && e.Get("protocol") == "HTTP/3", "and the edge's access log", "%s", e.Brief("protocol", "method", ":authority", "x-envoy-origin-path", "response_code"))
	if trusts {
		d.Check(true, "the certificate was verified", "the root is in the browser's own store, nothing is ignored")
	}
	picture := filepath.Join(d.Pictures, "chromium-h3.png")
	if err := os.WriteFile(picture, v.Picture, 0o644); err != nil {
		return err
	}
	d.Check(len(v.Picture) > 0, "a picture of it is in", "%s", picture)
	return ctx.Err()
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// visits is how often a browser asks until it should have changed over.
const visits = 8

// browserDiscoversHTTP3 tells the browser of no HTTP/3 on this port: it has to
// take the edge at its word. What it does then depends on whose root it is, for
// without being told Chromium speaks QUIC to holders of public certificates only.
// That is by host, and what is forced is by host and port; so for another port of
// the host lifts the rule and leaves the discovery to alt-svc.
func (d *demo) browserDiscoversHTTP3(ctx context.Context) error {
	d.Step("Chromium is told nothing of this port, and finds HTTP/3 by alt-svc alone")
	if !d.hasBrowser("the change to HTTP/3 by alt-svc in Chromium") {
		d.Does("left out")
		return nil
	}
	if _, err := exec.LookPath("certutil"); err != nil {
		d.missing = append(d.missing, "the change to HTTP/3 by alt-svc in Chromium: certutil (Debian: libnss3-tools) is not installed, and the browser has to know the root")
		d.Does("left out")
		return nil
	}
	otherPort := "--origin-to-force-quic-on=" + name + ":1"
	d.Does("chromium --headless %s %s, again and again: private roots will do for this host", otherPort, browserURL)
	seen, _, err := d.browse(ctx, "chromium-alt-svc", otherPort)
	if err != nil {
		d.Check(false, "Chromium shows the page", "%v", err)
		return ctx.Err()
	}
	d.Check(len(seen) > 1 && seen[0] == "h2" && seen[len(seen)-1] == "h3", "the first page by h2, a later one by h3", "%s", strings.Join(seen, ", "))

	d.Does("chromium --headless %s, with nothing but the root in its store", browserURL)
	seen, refusals, err := d.browse(ctx, "chromium-by-itself")
	if err != nil {
		d.Check(false, "Chromium shows the page", "%v", err)
		return ctx.Err()
	}
	d.Check(refusals > 0, "by itself it follows alt-svc too", "and then refuses QUIC: %d handshakes ended with its alert \"certificate unknown\", for the root is no public one", refusals)
	d.Check(len(seen) == visits && len(slices.Compact(slices.Clone(seen))) == 1 && seen[0] == "h2", "so it stays with h2, and loses nothing", "%d pages, all by %s", len(seen), seen[0])
	return ctx.Err()
}

// browse visits the page until the browser uses HTTP/3, and says over what each
// time, and how often the browser refused a certificate over QUIC.
func (d *demo) browse(ctx context.Context, called string, flags ...string) (seen []string, refusals int, err error) {
	home, _, err := d.profile(ctx, called)
	if err != nil {
		return nil, 0, err
	}
	log := filepath.Join(home, "net.json")
	b, err := startBrowser(d.Client, home, append(flags, resolverRule(d), "--log-net-log="+log)...)
	if err != nil {
		return nil, 0, err
	}
	defer b.Close()
	for range visits {
		v, err := b.visit(ctx, browserURL)
		if err != nil {
			return seen, 0, err
		}
		if v.Failed != "" {
			v.Protocol = v.Failed
		}
		if seen = append(seen, v.Protocol); v.Protocol == "h3" {
			break
		}
	}
	b.quit(ctx)
	refusals, err = quicRefusals(log)
	return seen, refusals, err
}

// logSource is what a line of the log is about.
var logSource = regexp.MustCompile(`"source":\{"id":\d+`)

// quicRefusals counts, in a log of Chromium's network stack, QUIC connections
// that it closed because of the certificate: alert 46, RFC 8446 section 6.
func quicRefusals(log string) (int, error) {
	f, err := os.Open(log)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sessions := make(map[string]bool)
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		if strings.Contains(scan.Text(), "46: certificate unknown") {
			sessions[logSource.FindString(scan.Text())] = true
		}
	}
	return len(sessions), scan.Err()
}
