package edge

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The backend answers small requests, large ones, and uploads of either framing, on one connection in any order.
func TestBackend(t *testing.T) {
	b := new(backend)
	arg, _ := json.Marshal([]string{loopback + ":0"})
	answer, err := b.handle("listen", arg)
	if err != nil {
		t.Fatal(err)
	}
	addr := answer.([]string)[0]
	if err := ask(protoH1, addr, "/"); err != nil {
		t.Errorf("a small request: %v", err)
	}
	const size = 5<<20 + 7
	for _, up := range []bool{false, true} {
		if _, err := moveBulk(bulkOrder{Proto: protoH1, Addr: addr, Up: up, Size: size}); err != nil {
			t.Errorf("a large body, up %v: %v", up, err)
		}
	}
	rt, _, done := transport(protoH1)
	defer done()
	for range 3 {
		if _, err := fetch(rt, "POST", "http://"+addr+"/", &pattern{left: 100_000}, -1); err != nil {
			t.Errorf("a chunked upload: %v", err)
		}
	}
}

func TestSelectCases(t *testing.T) {
	if got, err := selectCases([]string{"h2-*", "churn"}); err != nil || len(got) != 5 {
		t.Errorf("%d cases, %v; want four of h2 and churn", len(got), err)
	}
	if _, err := selectCases([]string{"h9-*"}); err == nil {
		t.Error("a glob that matches nothing is a mistake")
	}
}

// Only what a path speaks is asked of it.
func TestPaths(t *testing.T) {
	if got := pathsFor(protoH3); !slices.Equal(got, []string{pathOurs, pathCaddy}) {
		t.Errorf("HTTP/3 on %v", got)
	}
	if got := withoutDirect(pathsFor(protoH1)); slices.Contains(got, pathDirect) {
		t.Errorf("%v", got)
	}
}

func TestJudge(t *testing.T) {
	m := metric{unit: "1/s", target: target{vsCaddy: bound(1.5), vsNginx: bound(0.6)}}
	row := Row{Case: "h1-64", Ratios: map[string]*float64{pathCaddy: bound(1.6), pathNginx: bound(0.5)}}
	got := m.judge(row)
	if len(got) != 2 || !got[0].Met || got[1].Met {
		t.Errorf("%+v", got)
	}
	row.Ratios[pathNginx] = nil
	if got := m.judge(row); got[1].Met {
		t.Error("what was not measured is not met")
	}
}

func TestH3Answer(t *testing.T) {
	answer := append([]byte{0x01, 0x03, 0x00, 0x00, 0xd9, 0x00, 0x40, 0x80}, smallBody...)
	if err := checkAnswer(answer); err != nil {
		t.Error(err)
	}
	for why, p := range map[string][]byte{
		"nothing":        nil,
		"another status": append([]byte{0x01, 0x03, 0x00, 0x00, 0xdb}, smallBody...),
		"cut short":      answer[:4],
		"another body":   answer[:20],
	} {
		if checkAnswer(p) == nil {
			t.Errorf("%s passes", why)
		}
	}
}

func TestReadLog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(name, []byte("1 200 30\n2 200 10\n3 503 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	times, bad, err := readLog(name)
	if err != nil || bad != 1 || !slices.Equal(times, []uint32{10, 30}) {
		t.Errorf("%v, %d bad, %v", times, bad, err)
	}
}

// Every proxy's configuration names the backend, and its prefixes.
func TestConfigs(t *testing.T) {
	for _, name := range append([]string{pathOurs}, rivals...) {
		p := &proxy{name: name, place: place{
			dir: "/d", certs: "/c", http: "127.0.0.1:1", https: "127.0.0.1:2", admin: "127.0.0.1:3", backend: "127.0.0.1:4444", prefixes: []string{"/base"},
		}}
		for _, want := range []string{"4444", "/base", "/c"} {
			if !strings.Contains(p.config(), want) {
				t.Errorf("%s lacks %s:\n%s", name, want, p.config())
			}
		}
	}
}
