package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// minimal is the smallest configuration that makes sense.
const minimal = "world: {file: world.yaml}\n"

func TestParseConfig(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		// want is in the message, each on its own; none means that it is read.
		want []string
	}{
		{"minimal", minimal, nil},
		{"comments only around it", "# a\n" + minimal + "# b\n", nil},
		{"empty", "", []string{"world.file: nothing to do"}},
		{"only a comment", "# nothing\n", []string{"world.file: nothing to do"}},
		{"unknown field", minimal + "nodeNam: x\n", []string{
			`agent.yaml:2:1: unknown field "nodeNam"; did you mean "nodeName"?`, "    2 | nodeNam: x\n      | ^^^^^^^"}},
		{"unknown field, other case", minimal + "nodename: x\n", []string{`did you mean "nodeName"?`}},
		{"swapped letters", minimal + "drainTiemout: 5s\n", []string{`did you mean "drainTimeout"?`}},
		{"nothing near", minimal + "zebra: x\n", []string{`agent.yaml:2:1: unknown field "zebra"; known are nodeName, trustDomain,`}},
		{"unknown nested field", "world: {fiel: x}\n", []string{`agent.yaml:1:9: unknown field "fiel" in world; did you mean "file"?`}},
		{"unknown field in a list", minimal + "terminate:\n- lisen: x\n", []string{
			`agent.yaml:3:3: unknown field "lisen" in terminate[0]; did you mean "listen"?`}},
		{"two mistakes at once", minimal + "nodeNam: x\nsameNod: y\n", []string{"agent.yaml:2:1:", "agent.yaml:3:1:"}},
		{"duplicate", minimal + "sameNode: hbone\nsameNode: direct\n", []string{`agent.yaml:3:1: `, `"sameNode"`, "already"}},
		{"number for a duration", minimal + "drainTimeout: 30\n", []string{
			"agent.yaml:2:15: drainTimeout: want a duration such as 30s or 5m, have the number 30; did you mean 30s?"}},
		{"bad duration", minimal + "drainTimeout: 30 seconds\n", []string{`agent.yaml:2:15: drainTimeout: "30 seconds" is not a duration`}},
		{"zero duration", minimal + "drainTimeout: 0s\n", []string{"agent.yaml:2:15: drainTimeout: must be more than zero"}},
		{"string for a list", minimal + "trustDomainAliases: a\n", []string{"trustDomainAliases: want a list"}},
		{"list for a string", minimal + "nodeName: [a]\n", []string{"nodeName: want a string, have a list"}},
		{"string for a mapping", "world: world.yaml\n", []string{`agent.yaml:1:8: world: want a mapping with file, kubernetes, have the string "world.yaml"`}},
		{"two worlds", "world: {file: w.yaml, kubernetes: {}}\n", []string{"agent.yaml:1:15: world.file: the world comes from one place"}},
		{"plugin without Kubernetes", minimal + "cni: {}\n", []string{"cni: needs world.kubernetes"}},
		{"probes without Kubernetes", minimal + "probes: true\n", []string{"probes: needs world.kubernetes"}},
		{"string for a boolean", minimal + "probes: yes\n", []string{`probes: want true or false, have the string "yes"`}},
		{"relative socket", "world: {kubernetes: {}}\ncni: {socket: cni.sock}\n", []string{`cni.socket: "cni.sock" is not an absolute path`}},
		{"server without roots", minimal + "ca: {address: 'ca:15012'}\n", []string{"ca.address: set one of ca.rootConfigMap and ca.rootFile"}},
		{"server and embedded CA", minimal + "ca: {address: 'ca:15012', directory: d, rootFile: r}\n", []string{"ca.directory: is for the embedded CA"}},
		{"roots without a server", minimal + "ca: {rootFile: r}\n", []string{"ca.rootFile: is for a CA server"}},
		{"ConfigMap without Kubernetes", minimal + "ca: {address: 'ca:15012', rootConfigMap: a/b}\n", []string{"ca.rootConfigMap: needs world.kubernetes"}},
		{"ConfigMap without namespace", "world: {kubernetes: {}}\nca: {address: 'ca:15012', rootConfigMap: b}\n", []string{`"b" is not NAMESPACE/NAME`}},
		{"boolean for a string", minimal + "nodeName: true\n", []string{"nodeName: want a string, have the boolean true"}},
		{"key without a value", minimal + "nodeName:\n", nil},
		{"alias", "nodeName: &x a\nworld: {file: *x}\n", []string{"aliases and tags are not used here"}},
		{"tab", "world:\n\tfile: x\n", []string{"agent.yaml:2:"}},
		{"open bracket", "world: {file: x\n", []string{"agent.yaml:1:"}},
		{"second document", minimal + "---\nnodeName: x\n", []string{"agent.yaml:3:1: a second document"}},
		{"sameNode", minimal + "sameNode: dircet\n", []string{`agent.yaml:2:11: sameNode: "dircet" is not one of hbone, direct; did you mean "direct"?`}},
		{"log level", minimal + "log: {level: verbose}\n", []string{`log.level: "verbose" is not one of debug, info, warn, error`}},
		{"trust domain", minimal + "trustDomain: Not_OK!\n", []string{`trustDomain: "Not_OK!" is not a trust domain`}},
		{"trust domain as an ID", minimal + "trustDomain: spiffe://cluster.local\n", []string{"write the trust domain alone"}},
		{"alias of itself", minimal + "trustDomainAliases: [cluster.local]\n", []string{"trustDomainAliases[0]: cluster.local is the trust domain itself"}},
		{"admin in the open", minimal + "admin: 0.0.0.0:15000\n", []string{"admin: ", "not a loopback address"}},
		{"admin everywhere", minimal + "admin: ':15000'\n", []string{"not a loopback address"}},
		{"no admin", minimal + "admin: ''\n", nil},
		{"two servers on one port", minimal + "metrics: ':15021'\n", []string{"readiness: :15021 is the address of metrics already"}},
		{"host name to listen on", minimal + "metrics: 'localhost:1'\n", []string{`metrics: "localhost:1": "localhost" is not an IP address`}},
		{"encapsulate without everything", "encapsulate: [{}]\n", []string{
			"encapsulate[0].listen:", "encapsulate[0].peer:", "encapsulate[0].authority:", "encapsulate[0].identity: want a SPIFFE ID", "encapsulate[0].expect: name at least one"}},
		{"foreign identity", "terminate: [{listen: ':1', identity: spiffe://other.example/x}]\n", []string{"is not of the trust domain cluster.local"}},
		{"not a SPIFFE ID", "terminate: [{listen: ':1', identity: spiffe://cluster.local/x, allow: [bob]}]\n", []string{`terminate[0].allow[0]: "bob" is not a SPIFFE ID`}},
		{"upstream without a port", "terminate: [{listen: ':1', identity: spiffe://cluster.local/x, upstream: example.com}]\n", []string{`terminate[0].upstream: "example.com" is not host:port`}},
		{"unknown variable", encapsulateWith("x: '%DOWNSTREAM_LOCAL_PROT%'"), []string{"encapsulate[0].headers.x: ", "unknown variable %DOWNSTREAM_LOCAL_PROT%", "%DOWNSTREAM_LOCAL_PORT%"}},
		{"forbidden header", encapsulateWith("host: x"), []string{`header "host" cannot be part of a CONNECT request`}},
		{"header", encapsulateWith("original_dst_port: '%DOWNSTREAM_LOCAL_PORT%'"), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig("agent.yaml", []byte(tt.in))
			if tt.want == nil {
				if err != nil {
					t.Errorf("not read:\n%v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("read without complaint")
			}
			if !IsConfigError(err) {
				t.Errorf("%T is not a configuration error", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("message:\n%v\nlacks %q", err, want)
				}
			}
		})
	}
}

func encapsulateWith(header string) string {
	return `encapsulate:
- listen: 127.0.0.1:10000
  peer: 127.0.0.1:10001
  authority: host.com:443
  identity: spiffe://cluster.local/ns/default/sa/client
  expect: [spiffe://cluster.local/ns/default/sa/gateway]
  headers: {` + header + "}\n"
}

// TestReferenceConfig: the configuration that the help shows is read, names
// every field, and has every default right.
func TestReferenceConfig(t *testing.T) {
	cfg, err := ParseConfig("reference", []byte(ReferenceConfig))
	if err != nil {
		t.Fatalf("the reference configuration:\n%v", err)
	}
	for _, name := range yamlNames(reflect.TypeFor[Config]()) {
		if !strings.Contains(ReferenceConfig, name+":") {
			t.Errorf("the reference configuration lacks %s", name)
		}
	}
	want := DefaultConfig()
	want.NodeName, want.World.File = cfg.NodeName, cfg.World.File
	want.Encapsulate, want.Terminate = cfg.Encapsulate, cfg.Terminate
	want.TrustDomainAliases = cfg.TrustDomainAliases
	if diff := cmp.Diff(want, cfg); diff != "" {
		t.Errorf("values in the reference configuration that are not the defaults (-default +reference):\n%s", diff)
	}
}

// TestReferenceKubernetes: what the reference configuration has as comments is
// read too, and shows the defaults.
func TestReferenceKubernetes(t *testing.T) {
	text := regexp.MustCompile(`(?m)^( *)# ( *[a-z][a-zA-Z]*:( .*)?)$`).ReplaceAllString(ReferenceConfig, "$1$2")
	text = strings.Replace(text, "    file: world.yaml\n", "", 1)
	text = regexp.MustCompile(`(?m)^ +config: gateway/ .*\n`).ReplaceAllString(text, "")
	cfg, err := ParseConfig("reference", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	want := Config{World: WorldConfig{Kubernetes: new(KubernetesConfig)}, CNI: new(CNIConfig),
		Ingress: &IngressConfig{Kubernetes: new(IngressKubernetesConfig), ProxyProtocol: []string{}, TrustedProxies: []string{}}}
	want.complete()
	if diff := cmp.Diff(want.Ingress, cfg.Ingress); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want.World, cfg.World); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want.CNI, cfg.CNI); diff != "" {
		t.Error(diff)
	}
	if want := DefaultConfig().CA.TokenFile; cfg.CA.Address == "" || cfg.CA.RootConfigMap == "" || cfg.CA.TokenFile != want {
		t.Errorf("the CA server is %+v", cfg.CA)
	}
	alone, err := ParseConfig("alone", []byte("nodeName: a\nworld:\n  kubernetes:\ncni:\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.CNI, alone.CNI); diff != "" || alone.World.Kubernetes == nil {
		t.Errorf("keys without a value: %+v\n%s", alone.World, diff)
	}
}

func yamlNames(t reflect.Type) []string {
	var names []string
	switch {
	case t.Kind() == reflect.Slice, t.Kind() == reflect.Pointer:
		return yamlNames(t.Elem())
	case t.Kind() != reflect.Struct:
		return nil
	}
	for f := range t.Fields() {
		names = append(names, f.Tag.Get("yaml"))
		names = append(names, yamlNames(f.Type)...)
	}
	return names
}

// TestLoadConfig: paths in a file are relative to it.
func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.yaml")
	text := "world: {file: world.yaml}\nca: {directory: /abs}\naccessLog: {file: logs/access}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.World.File, cfg.CA.Directory, cfg.AccessLog.File}
	want := []string{filepath.Join(dir, "world.yaml"), "/abs", filepath.Join(dir, "logs/access")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, err = LoadConfig(filepath.Join(dir, "absent.yaml"))
	if !errors.Is(err, os.ErrNotExist) || !IsConfigError(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"nodeName", "admin", "metrics"}
	for in, want := range map[string]string{
		"nodeName": "nodeName", "nodname": "nodeName", "NODENAME": "nodeName", "amdin": "admin", "metric": "metrics", "zebra": "", "": "",
	} {
		if got := nearest(in, known); got != want {
			t.Errorf("nearest to %q is %q, want %q", in, got, want)
		}
	}
}

// FuzzParseConfig: no file makes the agent fall over, and whatever is accepted
// is valid.
func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{"", minimal, ReferenceConfig, "a: [", "world: {file: x}\n---\n", "&a *a", "? {a: b} : c", "encapsulate:\n- !!str x"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := ParseConfig("fuzz", data)
		if err != nil {
			_ = err.Error()
			return
		}
		if err := cfg.Validate(); err != nil {
			t.Errorf("accepted %q, and then: %v", data, err)
		}
	})
}

func TestIngressConfig(t *testing.T) {
	for _, c := range []struct{ why, text, want string }{
		{"neither source", "ingress: {}\n", "set one of ingress.config"},
		{"both sources", "nodeName: a\nworld: {kubernetes: }\ningress: {config: x, kubernetes: }\n", "set one of ingress.config"},
		{"no API server", "ingress: {kubernetes: }\n", "ingress.kubernetes: needs world.kubernetes"},
		{"an identity of another trust domain", "ingress: {config: x, identity: spiffe://other/ns/a/sa/b}\n", "is not of the trust domain"},
		{"no CIDR", "ingress: {config: x, trustedProxies: [10.0.0.1]}\n", "is not a CIDR"},
		{"an operator that there is not", "ingress: {config: x, accessLog: {format: '%RESPONSE_CDE%'}}\n", "RESPONSE_CODE"},
		{"nothing to do", "world: {file: x}\ncapture: false\n", "nothing to do"},
		{"alone", "ingress: {config: x}\n", ""},
	} {
		t.Run(c.why, func(t *testing.T) {
			cfg, err := ParseConfig("test", []byte(c.text))
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want == "":
				if got := cfg.Ingress.Identity; got != "spiffe://cluster.local/ns/adit-system/sa/adit-ingress" {
					t.Errorf("the identity is %q", got)
				}
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Errorf("error is %v; want one that says %q", err, c.want)
			}
		})
	}
}
