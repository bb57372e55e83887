package deploy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	helmchart "helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	istio "istio.io/client-go/pkg/apis/security/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// root is deploy/ as seen from this package.
const root = "../../deploy"

// objects are decoded manifests by "Kind namespace/name".
type objects map[string]runtime.Object

func (o objects) keys() []string { return slices.Sorted(maps.Keys(o)) }

// get returns the object of that key, or ends the test.
func get[T runtime.Object](t *testing.T, from objects, key string) T {
	t.Helper()
	o, ok := from[key].(T)
	if !ok {
		t.Fatalf("no %s of that type among %q", key, from.keys())
	}
	return o
}

// kustomize builds a directory of deploy/ as `kubectl apply -k` does.
func kustomize(t *testing.T, dir string) objects {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, dir))
	if err != nil {
		t.Fatalf("kustomize build deploy/%s: %v", dir, err)
	}
	stream, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, "deploy/"+dir, stream)
}

// release is how a chart is installed.
type release struct {
	namespace string // the release's own, "" = default
	values    map[string]any
}

var loadChart = sync.OnceValues(func() (*helmchart.Chart, error) {
	c, err := loader.Load(filepath.Join(root, "chart"))
	if err != nil {
		return nil, err
	}
	return c, c.Validate()
})

// helm renders the chart as `helm install` does, its schema included. The
// result is by file name.
func helm(r release) (map[string]string, error) {
	if r.namespace == "" {
		r.namespace = "default"
	}
	c, err := loadChart()
	if err != nil {
		return nil, err
	}
	values, err := chartutil.ToRenderValues(c, r.values, chartutil.ReleaseOptions{
		Name: "adit", Namespace: r.namespace, Revision: 1, IsInstall: true,
	}, nil)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, values)
}

// chart is what the chart makes of a release.
func chart(t *testing.T, r release) objects {
	t.Helper()
	files, err := helm(r)
	if err != nil {
		t.Fatalf("render the chart: %v", err)
	}
	out := make(objects)
	for name, text := range files {
		if strings.HasSuffix(name, ".yaml") {
			for key, o := range decode(t, name, []byte(text)) {
				if out[key] != nil {
					t.Errorf("the chart renders %s twice", key)
				}
				out[key] = o
			}
		}
	}
	return out
}

// decode reads a stream of manifests as the API server does with
// fieldValidation=Strict: unknown and repeated fields are errors.
func decode(t *testing.T, source string, stream []byte) objects {
	t.Helper()
	known := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, istio.AddToScheme, monitoring.AddToScheme, gateway.Install} {
		if err := add(known); err != nil {
			t.Fatal(err)
		}
	}
	strict := serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, known, known,
		serializer.SerializerOptions{Yaml: true, Strict: true})

	out := make(objects)
	for docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream))); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		if tree := map[string]any(nil); yaml.Unmarshal(doc, &tree) == nil && len(tree) == 0 {
			continue // nothing but comments
		}
		o, gvk, err := strict.Decode(doc, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v in\n%s", source, err, doc)
		}
		if err := strictSpec(o, doc); err != nil {
			t.Fatalf("%s: %s: %v", source, gvk.Kind, err)
		}
		m, err := meta.Accessor(o)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		key := strings.TrimSpace(fmt.Sprintf("%s %s", gvk.Kind, strings.TrimPrefix(m.GetNamespace()+"/"+m.GetName(), "/")))
		if out[key] != nil {
			t.Fatalf("%s: %s is there twice", source, key)
		}
		out[key] = o
	}
}

// strictSpec checks the specs that are protobuf: their own decoder ignores what
// it does not know.
func strictSpec(o runtime.Object, doc []byte) error {
	var spec proto.Message
	switch o := o.(type) {
	case *istio.AuthorizationPolicy:
		spec = o.Spec.ProtoReflect().New().Interface()
	case *istio.PeerAuthentication:
		spec = o.Spec.ProtoReflect().New().Interface()
	default:
		return nil
	}
	var raw struct {
		Spec json.RawMessage `json:"spec"`
	}
	if err := yaml.Unmarshal(doc, &raw); err != nil {
		return err
	}
	return protojson.Unmarshal(raw.Spec, spec)
}
