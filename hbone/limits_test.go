package hbone

import (
	"strings"
	"testing"
)

// What is no CONNECT, or too large, is answered rather than reset.
func TestServerAnswers(t *testing.T) {
	// Eight fields that take all of the limit but 1 KiB.
	limit := int(Limits{}.options(false).maxHeader)
	long := strings.Repeat("x", (limit-1<<10)/8-40)
	for _, tc := range []struct {
		name, status string
		fields       []string
	}{
		{"GET", "400", []string{":method", "GET", ":scheme", "https", ":path", "/", ":authority", "echo:1"}},
		{"POST", "400", []string{":method", "POST", ":scheme", "https", ":path", "/"}},
		{"an unknown method", "400", []string{":method", "BREW", ":scheme", "coffee", ":path", "/"}},
		{"headers above the limit", "431", []string{":method", "CONNECT", ":authority", "echo:1",
			"a", long, "b", long, "c", long, "d", long, "e", long, "f", long, "g", long, "h", long, "i", long}},
		{"headers just below it", "200", []string{":method", "CONNECT", ":authority", "echo:1",
			"a", long, "b", long, "c", long, "d", long, "e", long, "f", long, "g", long, "h", long}},
		{"te: trailers", "200", []string{":method", "CONNECT", ":authority", "echo:1", "te", "trailers"}},
		{"a port that is refused", "503", []string{":method", "CONNECT", ":authority", "refuse:1"}},
		{"an authority nobody understands", "400", []string{":method", "CONNECT", ":authority", "]]:99999999"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := newRig(t, scripted).client()
			block := p.block(tc.fields...)
			p.conn.Write(appendHeaders(nil, 1, block, false))
			p.wantStatus(tc.name, 1, tc.status)
			p.alive(tc.name, 3)
		})
	}
}
