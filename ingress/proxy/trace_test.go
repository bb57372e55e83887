package proxy

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTrace(t *testing.T) {
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	run := func(h http.Header) http.Header {
		tr := transaction{r: &http.Request{Header: h}}
		tr.sift(true)
		tr.trace()
		return h
	}
	w3c := "00-" + id + "-" + span + "-01"
	t.Run("made", func(t *testing.T) {
		h := run(http.Header{"Tracestate": {"x=y"}})
		if h["Tracestate"] != nil {
			t.Error("tracestate of no trace was kept")
		}
		tid, sid := h.Get("X-B3-Traceid"), h.Get("X-B3-Spanid")
		if len(tid) != 32 || len(sid) != 16 || h.Get("X-B3-Parentspanid") != tid[16:] || h.Get("X-B3-Sampled") != "0" {
			t.Errorf("B3: %v", h)
		}
		if got, want := h.Get("Traceparent"), "00-"+tid+"-"+sid+"-00"; got != want {
			t.Errorf("traceparent %s, want %s", got, want)
		}
	})
	b3 := http.Header{"X-B3-Traceid": {id}, "X-B3-Spanid": {span}, "X-B3-Sampled": {"1"}, "Traceparent": {w3c}}
	for _, c := range []struct {
		name     string
		in, want http.Header
	}{
		{"from W3C", http.Header{"Traceparent": {w3c}, "Tracestate": {"x=y"}},
			with(b3, "Tracestate", "x=y")},
		{"from B3", http.Header{"X-B3-Traceid": {id}, "X-B3-Spanid": {span}, "X-B3-Sampled": {"1"}, "X-B3-Parentspanid": {"1111111111111111"}},
			with(b3, "X-B3-Parentspanid", "1111111111111111")},
		{"from the single header", http.Header{"B3": {id + "-" + span + "-1-1111111111111111"}}, b3},
		{"both, in agreement", b3.Clone(), b3},
		{"both, of two traces: W3C counts", with(b3, "X-B3-Traceid", "ffffffffffffffffffffffffffffffff"), b3},
		{"64 bits", http.Header{"X-B3-Traceid": {id[16:]}, "X-B3-Spanid": {span}},
			http.Header{"X-B3-Traceid": {id[16:]}, "X-B3-Spanid": {span}, "Traceparent": {"00-0000000000000000" + id[16:] + "-" + span + "-00"}}},
		{"a later version", http.Header{"Traceparent": {"cc-" + id + "-" + span + "-01-what-comes"}},
			with(b3, "Traceparent", "cc-"+id+"-"+span+"-01-what-comes")},
	} {
		if d := cmp.Diff(c.want, run(c.in)); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
	for _, bad := range []string{
		"", "00", "ff-" + id + "-" + span + "-01", "00-" + id + "-" + span + "-01-x", "00-" + strings.Repeat("0", 32) + "-" + span + "-01",
		"00-" + strings.ToUpper(id) + "-" + span + "-01", "00-" + id + "-0000000000000000-01", "00-" + id + "-" + span + "-0g", w3c + "x",
	} {
		if _, ok := parseTraceparent(bad); ok {
			t.Errorf("%q was taken for a traceparent", bad)
		}
	}
}

func FuzzTrace(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "", "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "1")
	f.Add("", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90", "", "", "")
	f.Add("", "", "8448eb211c80319c", "b7ad6b7169203331", "d")
	f.Fuzz(func(t *testing.T, parent, single, id, span, sampled string) {
		h := http.Header{}
		for name, v := range map[string]string{"Traceparent": parent, "B3": single, "X-B3-Traceid": id, "X-B3-Spanid": span, "X-B3-Sampled": sampled} {
			if v != "" {
				h[name] = []string{v}
			}
		}
		tr := transaction{r: &http.Request{Header: h}}
		tr.sift(false)
		tr.trace()
		w3c, ok := parseTraceparent(h.Get("Traceparent"))
		if !ok || len(h["Traceparent"]) != 1 {
			t.Fatalf("traceparent %q", h["Traceparent"])
		}
		b3, ok := parseB3(h)
		if !ok || !sameTrace(b3.id, w3c.id) {
			t.Fatalf("B3 %v tells of another trace than %q", h, h.Get("Traceparent"))
		}
		if b3.span != w3c.span || b3.sampled != w3c.sampled {
			t.Fatalf("B3 %v and %q differ", h, h.Get("Traceparent"))
		}
	})
}

func with(h http.Header, name, value string) http.Header {
	h = h.Clone()
	h[name] = []string{value}
	return h
}
