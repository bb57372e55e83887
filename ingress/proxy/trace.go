package proxy

import (
	"math/rand/v2"
	"net/http"
	"strings"
)

// trace sets the headers of distributed tracing, B3 (several headers, as Zipkin
// and Envoy have them) and W3C Trace Context, so that both say the same.
//
// A trace that the client began is carried on as it is: this proxy reports no span
// of its own, and a span id that nobody reports would tear the tree apart. If
// there is none, one is begun, not sampled.
func (t *transaction) trace() {
	h := t.r.Header
	if !t.traced {
		t.beginTrace(h)
		return
	}
	tr, ok := parseTraceparent(headerValue(h, "Traceparent"))
	if ok && len(h["Traceparent"]) == 1 {
		if b3, ok := parseB3(h); !ok || !sameTrace(b3.id, tr.id) || b3.span != tr.span || b3.sampled != tr.sampled {
			delete(h, "X-B3-Parentspanid")
			t.setB3(h, tr)
		}
		return
	}
	delete(h, "Tracestate") // of a traceparent that is not there, or no good
	if tr, ok = parseB3(h); !ok {
		delete(h, "B3")
		delete(h, "X-B3-Flags")
		t.beginTrace(h)
		return
	}
	if _, single := h["B3"]; single {
		t.setB3(h, tr)
	}
	t.set(h, "Traceparent", tr.traceparent())
}

// beginTrace makes a trace of which the client's request is the root.
func (t *transaction) beginTrace(h http.Header) {
	var b [55]byte
	s := appendHex(append(b[:0], "00-"...), rand.Uint64(), 16)
	s = appendHex(s, rand.Uint64()|1, 16)
	s = appendHex(append(s, '-'), rand.Uint64()|1, 16)
	w3c := string(append(s, "-00"...))
	t.set(h, "Traceparent", w3c)
	t.set(h, "X-B3-Traceid", w3c[3:35])
	// The root's number is half of the trace's, as Zipkin has it.
	t.set(h, "X-B3-Parentspanid", w3c[19:35])
	t.set(h, "X-B3-Spanid", w3c[36:52])
	h["X-B3-Sampled"] = valueZero
}

type traceID struct {
	id      string // 32 hexadecimal digits in lower case, or 16
	span    string // 16
	sampled bool
	// deferred says that B3 left the decision to others.
	deferred bool
}

func (tr traceID) traceparent() string {
	flags := "-00"
	if tr.sampled {
		flags = "-01"
	}
	pad := ""
	if len(tr.id) == 16 {
		pad = "0000000000000000"
	}
	return "00-" + pad + tr.id + "-" + tr.span + flags
}

func (t *transaction) setB3(h http.Header, tr traceID) {
	delete(h, "B3")
	delete(h, "X-B3-Flags")
	t.set(h, "X-B3-Traceid", tr.id)
	t.set(h, "X-B3-Spanid", tr.span)
	switch {
	case tr.sampled:
		h["X-B3-Sampled"] = valueOne
	case tr.deferred:
		delete(h, "X-B3-Sampled")
	default:
		h["X-B3-Sampled"] = valueZero
	}
}

// parseTraceparent reads version 00, and of later versions what they share with it
// (W3C Trace Context, 3.2 and 4.3).
func parseTraceparent(s string) (traceID, bool) {
	if len(s) < 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' ||
		!isHex(s[:2]) || s[:2] == "ff" || s[:2] == "00" && len(s) != 55 || len(s) > 55 && s[55] != '-' {
		return traceID{}, false
	}
	tr := traceID{id: s[3:35], span: s[36:52]}
	if !isID(tr.id) || !isID(tr.span) || !isHex(s[53:55]) {
		return traceID{}, false
	}
	tr.sampled = hexValue(s[54])&1 == 1
	return tr, true
}

// parseB3 reads the single header, or the several ones.
func parseB3(h http.Header) (traceID, bool) {
	var tr traceID
	state := ""
	if single := headerValue(h, "B3"); single != "" {
		var rest string
		tr.id, rest, _ = strings.Cut(single, "-")
		tr.span, rest, _ = strings.Cut(rest, "-")
		state, _, _ = strings.Cut(rest, "-")
	} else {
		tr.id, tr.span = headerValue(h, "X-B3-Traceid"), headerValue(h, "X-B3-Spanid")
		state = headerValue(h, "X-B3-Sampled")
		if headerValue(h, "X-B3-Flags") == "1" {
			state = "d"
		}
	}
	if len(tr.id) != 32 && len(tr.id) != 16 || len(tr.span) != 16 || !isID(tr.id) || !isID(tr.span) {
		return traceID{}, false
	}
	switch state {
	case "1", "d", "true":
		tr.sampled = true
	case "":
		tr.deferred = true
	}
	return tr, true
}

func sameTrace(b3, w3c string) bool {
	if len(b3) == 16 {
		return w3c[:16] == "0000000000000000" && w3c[16:] == b3
	}
	return b3 == w3c
}

// isID says whether s is hexadecimal digits in lower case, not all zero.
func isID(s string) bool { return isHex(s) && strings.Trim(s, "0") != "" }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func hexValue(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}
