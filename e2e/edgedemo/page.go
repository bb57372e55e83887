package edgedemo

import (
	"html/template"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/e2e/testbed"
)

// slow is the path of an answer that begins at once and ends when it is allowed to.
const slow = "/slow"

// pod is the application in a pod: a page for browsers, and what it saw of the
// request for everybody else. Slow answers end when end is closed.
func pod(name string, end <-chan struct{}) http.Handler {
	echo := testbed.Echo(name)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == slow {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			select {
			case <-end:
				_, _ = io.WriteString(w, ", and ended")
			case <-r.Context().Done():
			}
			return
		}
		if r.URL.Path != "/" || !strings.Contains(r.Header.Get("Accept"), "text/html") {
			echo.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_ = page.Execute(w, pageData{Pod: name, Proto: r.Proto, Peer: r.RemoteAddr, Headers: edgeHeaders(r.Header)})
	})
}

type pageData struct {
	Pod, Proto, Peer string
	Headers          []header
}

type header struct{ Name, Value string }

// edgeHeaders are those that the edge has added.
func edgeHeaders(h http.Header) []header {
	var out []header
	for name, values := range h {
		if strings.HasPrefix(name, "X-") || name == "Traceparent" {
			out = append(out, header{name, strings.Join(values, ", ")})
		}
	}
	slices.SortFunc(out, func(a, b header) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// page says what the pod knows, which is what the edge told it, and what the
// browser knows: the protocol that it spoke.
var page = template.Must(template.New("page").Parse(`<!doctype html>
<meta charset="utf-8"><title>{{.Pod}}</title>
<style>
body { font: 16px/1.5 sans-serif; margin: 2.5rem auto; max-width: 62rem; color: #222 }
h1 { font-weight: 600 } b { color: #0a6 }
table { border-collapse: collapse } td { padding: .2rem .8rem; border-top: 1px solid #ddd; vertical-align: top }
td + td { font-family: monospace; overflow-wrap: anywhere }
</style>
<h1>Your browser asked over <b id="protocol">?</b></h1>
<p>The edge asked pod <code>{{.Pod}}</code> over {{.Proto}}; the pod's peer was {{.Peer}}, and these are the edge's headers:
<table>{{range .Headers}}<tr><td>{{.Name}}<td>{{.Value}}{{end}}</table>
<script>
document.getElementById("protocol").textContent = performance.getEntriesByType("navigation")[0].nextHopProtocol
</script>
`))
