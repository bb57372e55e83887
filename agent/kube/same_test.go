package kube

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/adit-mesh/adit/agent/mesh"
)

// everyField changes one field after the other, and wants same to see it.
func everyField[T any](t *testing.T, unused map[string]bool, same func(a, b *T) bool) {
	t.Helper()
	other := map[reflect.Type]any{
		reflect.TypeFor[[]netip.Addr]():                             []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		reflect.TypeFor[[]string]():                                 []string{"x"},
		reflect.TypeFor[map[mesh.NamespacedHostname]mesh.PortMap](): map[mesh.NamespacedHostname]mesh.PortMap{{Hostname: "x"}: nil},
		reflect.TypeFor[mesh.PortMap]():                             mesh.PortMap{1: 1},
		reflect.TypeFor[[]mesh.VIP]():                               []mesh.VIP{{Network: "x"}},
		reflect.TypeFor[mesh.Locality]():                            mesh.Locality{Zone: "x"},
		reflect.TypeFor[mesh.LoadBalancing]():                       mesh.LoadBalancing{Mode: mesh.ModeStrict},
	}
	typ := reflect.TypeFor[T]()
	if !same(new(T), new(T)) {
		t.Fatalf("two empty %v differ", typ)
	}
	for i := range typ.NumField() {
		f := typ.Field(i)
		if !f.IsExported() || unused[f.Name] {
			continue
		}
		var b T
		v := reflect.ValueOf(&b).Elem().Field(i)
		switch x, ok := other[f.Type]; {
		case ok:
			v.Set(reflect.ValueOf(x))
		case f.Type.Kind() == reflect.String:
			v.SetString("x")
		case f.Type.Kind() == reflect.Bool:
			v.SetBool(true)
		case f.Type.Kind() == reflect.Uint8:
			v.SetUint(1)
		default:
			t.Fatalf("%v.%s is of a type that this test does not know", typ, f.Name)
		}
		if same(new(T), &b) {
			t.Errorf("%v.%s is not compared", typ, f.Name)
		}
	}
}
