package capture

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// The node's own namespace is no place to look for what the kernel refuses.
func TestExplainHostTable(t *testing.T) {
	n, err := throwaway()
	if err != nil {
		t.Skipf("no namespaces: %v", err) // TestPreflight fails where they are required
	}
	n.Close()
	cause := errors.New("it went wrong")
	good := hostRuleset(0, probedPods())
	if err := checked(good, cause); err != cause {
		t.Errorf("of what can be loaded elsewhere: %v", err)
	}
	if err := checked(good, nil); err != nil {
		t.Errorf("of no error: %v", err)
	}
	bad := hostRuleset(0, nil)
	bad.Chains[0].Rules = append(bad.Chains[0].Rules, rule{socketMark(1), accept()}) // not for chains of postrouting
	if err := checked(bad, cause); err == nil || !strings.Contains(err.Error(), "socket mark") || !strings.Contains(err.Error(), "chain post") {
		t.Errorf("the kernel refuses a statement: %v; want its name", err)
	}
}

// What the kernel refuses is found and named, whatever it is.
func TestExplain(t *testing.T) {
	n, err := throwaway()
	if err != nil {
		t.Skipf("no namespaces: %v", err) // TestPreflight fails where they are required
	}
	defer n.Close()
	for why, tc := range map[string]struct {
		spoil func(*table)
		want  []string
	}{
		"expression": {
			func(tb *table) {
				c := &tb.Chains[1]
				c.Rules = append(c.Rules, rule{iif(not, lo), {text: "socket shoe-size 42", exprs: []expr.Any{&expr.Socket{Key: 99, Register: 1}}}, accept()})
			},
			[]string{`"socket shoe-size 42"`, "chain raw_out", "CONFIG_NFT_SOCKET", "4.18"},
		},
		"chain": {
			func(tb *table) { tb.Chains[2].Type = "tunnel" },
			[]string{"chain type tunnel", "5.2"},
		},
		"set": {
			func(tb *table) { tb.Sets[2].kind = nftables.SetDatatype{Name: "nothing"} },
			[]string{"set probe_port of nothing"},
		},
	} {
		t.Run(why, func(t *testing.T) {
			tb := ruleset(preflightRules(), capturing)
			tc.spoil(&tb)
			err := checkKernel(n, tb)
			if err == nil {
				t.Fatal("the kernel took it")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %q", err, want)
				}
			}
		})
	}
}
