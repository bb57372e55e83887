package route

import (
	"fmt"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestExplain(t *testing.T) {
	b := NewBuilder[string]()
	canary := []ValueMatch{{Name: "Env", Value: "canary"}}
	b.Set("routes", []Entry[string]{
		{Host: "shop.test", Value: "canary", Match: Match{Path: prefix("/login"), Headers: canary}},
		{Host: "shop.test", Value: "login", Match: Match{Path: prefix("/login")}, Created: time.Unix(1, 0)},
		{Host: "shop.test", Value: "copy", Match: Match{Path: prefix("/login/")}, Created: time.Unix(2, 0)},
		{Host: "shop.test", Value: "post", Match: Match{Path: prefix("/login"), Method: "POST",
			Query: []ValueMatch{{Name: "v", Regex: regexp.MustCompile("^(?:[0-9]+)$")}}}},
		{Host: "shop.test", Value: "exact", Match: Match{Path: exact("/logout")}},
		{Host: "*.test", Value: "wild", Match: Match{Path: prefix("/login")}},
		{Host: "other.test", Value: "other"},
	})
	r := &Request{Host: "shop.test", Path: "/login/x", Method: "GET", Header: http.Header{"Env": {"prod"}}}
	type line struct {
		Value   string
		Matched bool
		Failed  []string
		Shadow  string
	}
	var got []line
	for _, c := range b.Table().Explain(r) {
		l := line{Value: c.Entry.Value, Matched: c.Matched, Failed: c.Failed}
		if c.Shadowed != nil {
			l.Shadow = c.Shadowed.Value
		}
		got = append(got, l)
	}
	want := []line{
		{Value: "exact", Failed: []string{`path is "/login/x", wants exactly "/logout"`}},
		{Value: "post", Failed: []string{"method is GET, wants POST", `query parameter v is absent, wants a match of "^(?:[0-9]+)$"`}},
		{Value: "canary", Failed: []string{`header env is "prod", wants "canary"`}},
		{Value: "login", Matched: true},
		{Value: "copy", Matched: true, Shadow: "login"},
		{Value: "wild", Matched: true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("explained otherwise (-want +got):\n%s", d)
	}
}

func TestExplainTellsOfTheClosestPathsOnly(t *testing.T) {
	b := NewBuilder[string]()
	for i := range 100 {
		b.Set(fmt.Sprint(i), []Entry[string]{{Value: fmt.Sprint(i), Match: Match{Path: prefix(fmt.Sprintf("/x%d", i))}}})
	}
	b.Set("near", []Entry[string]{{Value: "near", Match: Match{Path: prefix("/orders/v1")}}})
	cs := b.Table().Explain(&Request{Path: "/orders/v2"})
	if len(cs) != elsewhere {
		t.Fatalf("%d candidates of other paths, want %d", len(cs), elsewhere)
	}
	for _, c := range cs {
		if c.Entry.Value == "near" {
			return
		}
	}
	t.Error("the closest path is not among them")
}
