package authz

import "testing"

func TestPortThatIsNone(t *testing.T) {
	p := ConvertPeer(Object{Namespace: "x", Name: "y", Spec: []byte(`{"selector":{"matchLabels":{"a":"b"}},"mtls":{"mode":"PERMISSIVE"},"portLevelMtls":{"http":{"mode":"STRICT"}}}`)})
	if p.Mode != Strict {
		t.Errorf("a STRICT port that cannot be read leaves the workload %d: %v", p.Mode, p.Problems)
	}
}
