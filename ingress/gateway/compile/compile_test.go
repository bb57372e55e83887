package compile

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress/gateway/backend"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write what routes compile to into testdata")

const separator = "\n----------\n"

// The files of testdata are a route, a line of dashes, and what it compiles to.
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	x := index(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in, want, _ := strings.Cut(string(text), separator)
			got := dump(t, compileYAML(t, x, in))
			if *update {
				if err := os.WriteFile(file, []byte(strings.TrimSuffix(in, "\n")+separator+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func index(t testing.TB) *backend.Index {
	t.Helper()
	text, err := os.ReadFile("testdata/services.yaml")
	if err != nil {
		t.Fatal(err)
	}
	x := backend.NewIndex(backend.Options{})
	for doc := range strings.SplitSeq(string(text), "\n---\n") {
		var s corev1.Service
		if err := yaml.UnmarshalStrict([]byte(doc), &s); err != nil {
			t.Fatal(err)
		}
		x.SetService(&s)
	}
	return x
}

func compileYAML(t testing.TB, x *backend.Index, text string) Compiled {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &kind); err != nil {
		t.Fatal(err)
	}
	res := x.For(backend.From{Kind: gatewayv1.Kind(kind.Kind), Namespace: "default"})
	switch kind.Kind {
	case "HTTPRoute":
		var r gatewayv1.HTTPRoute
		if err := yaml.UnmarshalStrict([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		r.Namespace = "default"
		return HTTPRoute(&r, res)
	case "GRPCRoute":
		var r gatewayv1.GRPCRoute
		if err := yaml.UnmarshalStrict([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		r.Namespace = "default"
		return GRPCRoute(&r, res)
	}
	t.Fatalf("kind %q", kind.Kind)
	return Compiled{}
}

// dump writes what is not zero. The owner is left out: all entries have it. So is
// a rule that is the very one of the entry before.
func dump(t testing.TB, c Compiled) string {
	t.Helper()
	out := plain(reflect.ValueOf(c)).(map[string]any)
	entries, _ := out["Entries"].([]any)
	for i := len(entries) - 1; i > 0; i-- {
		if c.Entries[i].Value == c.Entries[i-1].Value {
			entries[i].(map[string]any)["Value"] = "the same"
		}
	}
	text, err := yaml.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func plain(v reflect.Value) any {
	switch o := v.Interface().(type) {
	case *regexp.Regexp:
		if o == nil {
			return nil
		}
		return "regexp " + o.String()
	case time.Duration:
		return o.String()
	case time.Time:
		return o.Format(time.RFC3339)
	case fmt.Stringer:
		return o.String()
	}
	switch v.Kind() {
	case reflect.Pointer:
		return plain(v.Elem())
	case reflect.Slice:
		var list []any
		for i := range v.Len() {
			list = append(list, plain(v.Index(i)))
		}
		return list
	case reflect.Struct:
		fields := make(map[string]any)
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() && v.Type().Field(i).Name != "Owner" {
				fields[v.Type().Field(i).Name] = plain(f)
			}
		}
		return fields
	}
	return v.Interface()
}
