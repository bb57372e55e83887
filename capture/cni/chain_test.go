package cni

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

var own = entry{Type: PluginName, Socket: "/run/adit/cni.sock", ExcludeNamespaces: []string{"kube-system"}, Source: "x"}

func TestChainKeepsWhatItDoesNotKnow(t *testing.T) {
	const plugin = `{"type": "bridge", "mtu": 9007199254740993, "x": {"a<b": [1.50, null, "\u00e9", 1e400]}, "name": "inner"}`
	for _, test := range []struct{ name, file, content, want string }{
		{
			"list", "10-a.conflist",
			`{"cniVersion": "0.3.1", "name": "net", "disableCheck": true, "z": 12345678901234567890, "plugins": [` + plugin + `, {"type": "portmap"}]}`,
			`{"cniVersion": "0.3.1", "name": "net", "disableCheck": true, "z": 12345678901234567890, "plugins": [` + plugin + `, {"type": "portmap"}, OWN]}`,
		},
		{
			"single plugin", "10-a.conf",
			`{"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": {"type": "host-local"}}`,
			`{"cniVersion": "1.0.0", "name": "net", "plugins": [{"cniVersion": "1.0.0", "name": "net", "type": "bridge", "ipam": {"type": "host-local"}}, OWN]}`,
		},
		{
			"no version", "10-a.json",
			`{"name": "net", "type": "bridge"}`,
			`{"name": "net", "plugins": [{"name": "net", "type": "bridge"}, OWN]}`,
		},
		{
			"made from ours", "10-a.conflist",
			`{"name": "net", "plugins": [{"type": "adit-cni", "socket": "/old"}, {"type": "bridge"}, {"type": "adit-cni"}]}`,
			`{"name": "net", "plugins": [{"type": "bridge"}, OWN]}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, err := parseNetwork(test.file, []byte(test.content))
			if err != nil {
				t.Fatal(err)
			}
			got, err := n.chain(own)
			if err != nil {
				t.Fatal(err)
			}
			ours, _ := json.Marshal(own)
			want := strings.Replace(test.want, "OWN", string(ours), 1)
			if diff := cmp.Diff(decoded(t, []byte(want)), decoded(t, got)); diff != "" {
				t.Errorf("chain (-want +got):\n%s", diff)
			}
			if _, err := asRuntime("a.conflist", got); err != nil && !strings.Contains(test.content, "1e400") {
				t.Errorf("a runtime does not read it: %v", err)
			}
			if sourceOf(got) != "x" {
				t.Errorf("source is %q, want x", sourceOf(got))
			}
		})
	}
}

// decoded keeps the digits of numbers.
func decoded(t *testing.T, content []byte) (v any) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(content)))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, content)
	}
	return v
}

func TestConfigurationsThatMakeNoSense(t *testing.T) {
	for _, test := range []struct{ file, content, want string }{
		{"a.conflist", ``, "not a JSON object"},
		{"a.conflist", `{"name": "net", "plugins": [{"type": "bri`, "not a JSON object"},
		{"a.conflist", `[]`, "not a JSON object"},
		{"a.conflist", `{"plugins": [{"type": "bridge"}]}`, `no "name"`},
		{"a.conflist", `{"name": 5, "plugins": [{"type": "bridge"}]}`, `"name" is not a string`},
		{"a.conflist", `{"name": "net", "cniVersion": 1, "plugins": [{"type": "bridge"}]}`, `"cniVersion" is not a string`},
		{"a.conflist", `{"name": "net", "plugins": {}}`, `"plugins" is not a list`},
		{"a.conflist", `{"name": "net", "plugins": [{"kind": "bridge"}]}`, `plugin 0 has no "type"`},
		{"a.conflist", `{"name": "net", "plugins": [7]}`, `plugin 0 is no plugin`},
		{"a.conflist", `{"name": "net", "loadOnlyInlinedPlugins": 7, "plugins": [{"type": "bridge"}]}`, `neither true nor false`},
		{"a.conflist", `{"name": "net", "plugins": []}`, "has no plugins"},
		{"a.conflist", `{"name": "net", "type": "bridge"}`, "has no plugins"},
		{"a.conf", `{"name": "net", "plugins": [{"type": "bridge"}]}`, `plugin 0 has no "type"`},
		{"a.conf", `{"name": "net", "type": "loopback"}`, errNoNetwork.Error()},
	} {
		n, err := parseNetwork(test.file, []byte(test.content))
		if err == nil {
			err = n.check()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %s: %v; want %q", test.file, test.content, err, test.want)
		}
	}
}

func TestOwnNameSortsFirst(t *testing.T) {
	for _, test := range []struct {
		others []string
		want   string
	}{
		{nil, "00-adit.conflist"},
		{[]string{"10-flannel.conflist"}, "00-adit.conflist"},
		{[]string{"00-multus.conf", "10-flannel.conflist"}, "00-adit.conflist"},
		{[]string{"00-acme.conf"}, "0-adit.conflist"},
		{[]string{"0-a.conf"}, "!adit.conflist"},
		{[]string{" a.conf"}, ""},
	} {
		got, err := ownName(test.others)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("beside %q our chain is called %q, %v; want %q", test.others, got, err, test.want)
		}
		if err == nil {
			if all := append([]string{got}, test.others...); !slices.IsSorted(all) {
				t.Errorf("%q is not the first of %q", got, test.others)
			}
		}
	}
}

// FuzzChain holds our reading of a configuration to that of libcni: what a runtime can use, we can too, and it can use
// what we make of it.
func FuzzChain(f *testing.F) {
	f.Add(true, []byte(`{"cniVersion": "0.3.1", "name": "net", "plugins": [{"type": "bridge", "ipam": {}}, {"type": "adit-cni"}]}`))
	f.Add(true, []byte(`{"cniVersions": ["1.0.0", "1.1.0"], "name": "net", "loadOnlyInlinedPlugins": "True", "plugins": [{"type": "a"}]}`))
	f.Add(false, []byte(`{"cniVersion": "1.0.0", "name": "net", "type": "bridge"}`))
	f.Add(true, []byte(`{"name": "a", "name": "b", "plugins": [{"type": "c", "type": "d"}], "Plugins": []}`))
	f.Fuzz(func(t *testing.T, list bool, content []byte) {
		name := "a.conf"
		if list {
			name = "a.conflist"
		}
		theirs, theirErr := asRuntime(name, content)
		n, err := parseNetwork(name, content)
		if err == nil {
			err = n.check()
		}
		if err != nil {
			if theirErr == nil && theirs.Name != "" && !errors.Is(err, errNoNetwork) && slices.ContainsFunc(theirs.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Type != PluginName }) {
				t.Fatalf("libcni reads %s, we do not: %v", content, err)
			}
			return
		}
		got, err := n.chain(own)
		if err != nil {
			t.Fatal(err)
		}
		if theirErr != nil {
			return
		}
		again, err := asRuntime("a.conflist", got)
		if err != nil {
			t.Fatalf("libcni does not read what we made: %v\n%s", err, got)
		}
		if last := again.Plugins[len(again.Plugins)-1].Network.Type; last != PluginName {
			t.Fatalf("the last plugin is %q in %s", last, got)
		}
		if again.Name != theirs.Name || again.CNIVersion != theirs.CNIVersion || again.DisableCheck != theirs.DisableCheck {
			t.Fatalf("another network:\n%s\n%s", content, got)
		}
	})
}
