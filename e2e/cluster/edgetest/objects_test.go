package edgetest

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// What a user reads of objects with kubectl -o json, as far as tests look at it.
type (
	metadata struct {
		Name, Namespace string
		Generation      int64
		Labels          map[string]string
	}
	condition struct {
		Type, Status, Reason, Message, LastTransitionTime string
		ObservedGeneration                                int64
	}
	reference struct{ Group, Kind, Name, Namespace, SectionName string }

	gatewayObject struct {
		Metadata metadata
		Status   struct {
			Addresses  []struct{ Type, Value string }
			Conditions []condition
			Listeners  []struct {
				Name           string
				AttachedRoutes int
				Conditions     []condition
			}
		}
	}
	routeObject struct {
		APIVersion string
		Metadata   metadata
		Status     struct {
			Parents []struct {
				ControllerName string
				ParentRef      reference
				Conditions     []condition
			}
		}
	}
	policyObject struct {
		Metadata metadata
		Status   struct {
			Ancestors []struct {
				ControllerName string
				AncestorRef    reference
				Conditions     []condition
			}
		}
	}
)

// getJSON is kubectl get … -o json.
func getJSON(ctx context.Context, v any, args ...string) error {
	out, err := meshlab.Cluster().Kubectl(ctx, append(append([]string{"get"}, args...), "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), v)
}

// wantCondition wants one of a type to be so, about this generation; "" for the
// reason takes any.
func wantCondition(all []condition, generation int64, kind, status, reason string) error {
	for _, c := range all {
		if c.Type != kind {
			continue
		}
		if c.Status != status || reason != "" && c.Reason != reason {
			return fmt.Errorf("%s is %s for %s (%s); want %s for %s", kind, c.Status, c.Reason, c.Message, status, reason)
		}
		if c.ObservedGeneration != generation {
			return fmt.Errorf("%s is about generation %d of %d", kind, c.ObservedGeneration, generation)
		}
		return nil
	}
	return fmt.Errorf("no condition %s in %+v", kind, all)
}

// listener waits for a condition of a Gateway's listener, and returns its message.
func listener(t *testing.T, ns, gateway, name, kind, status, reason string) (message string) {
	t.Helper()
	meshlab.Eventually(t, fmt.Sprintf("%s of listener %s of %s/%s is %s for %s", kind, name, ns, gateway, status, reason), func() error {
		var gw gatewayObject
		if err := getJSON(t.Context(), &gw, "-n", ns, "gateway", gateway); err != nil {
			return err
		}
		for _, l := range gw.Status.Listeners {
			if l.Name == name {
				for _, c := range l.Conditions {
					if c.Type == kind {
						message = c.Message
					}
				}
				return wantCondition(l.Conditions, gw.Metadata.Generation, kind, status, reason)
			}
		}
		return fmt.Errorf("no status of it in %+v", gw.Status.Listeners)
	})
	return message
}

// route waits for a condition that our controller gives a route for its first parent.
func route(t *testing.T, ns, name, kind, status, reason string) {
	t.Helper()
	meshlab.Eventually(t, fmt.Sprintf("%s of HTTPRoute %s/%s is %s for %s", kind, ns, name, status, reason), func() error {
		var r routeObject
		if err := getJSON(t.Context(), &r, "-n", ns, "httproute", name); err != nil {
			return err
		}
		if len(r.Status.Parents) == 0 {
			return fmt.Errorf("no status")
		}
		return wantCondition(r.Status.Parents[0].Conditions, r.Metadata.Generation, kind, status, reason)
	})
}

// columns is a line of kubectl get, by the names of its columns.
func columns(t *testing.T, args ...string) map[string]string {
	t.Helper()
	out := meshlab.Kubectl(t, append([]string{"get"}, args...)...)
	head, line, _ := strings.Cut(strings.TrimSpace(out), "\n")
	names, values := strings.Fields(head), strings.Fields(line)
	if len(names) != len(values) {
		t.Fatalf("kubectl get %v prints %q", args, out)
	}
	table := map[string]string{}
	for i, n := range names {
		table[n] = values[i]
	}
	return table
}

// manifest is a file of testdata.
func applyFile(t *testing.T, name string) {
	t.Helper()
	meshlab.Kubectl(t, "apply", "-f", testdata(name))
}

// removeAfter deletes what a file of testdata says, when the test ends.
func removeAfter(t *testing.T, names ...string) {
	t.Helper()
	t.Cleanup(func() {
		for _, name := range names {
			if out, err := meshlab.Cluster().Kubectl(context.Background(), "delete", "--ignore-not-found", "--wait=false", "-f", testdata(name)); err != nil {
				t.Errorf("clean up: %v: %s", err, out)
			}
		}
	})
}
