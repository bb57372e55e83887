package kube

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

// TestNamedAgain: an object that is let go and wanted again at once is there in the
// end, whichever of the two that followed it is the last to say something.
func TestNamedAgain(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Query().Get("sendInitialEvents") == "true" { // which not every server has
			w.WriteHeader(http.StatusUnprocessableEntity)
			json.NewEncoder(w).Encode(&metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
				Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: http.StatusUnprocessableEntity})
			return
		}
		if r.URL.Query().Get("watch") != "" {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		json.NewEncoder(w).Encode(&corev1.ConfigMapList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMapList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"},
			Items:    []corev1.ConfigMap{{ObjectMeta: metav1.ObjectMeta{Name: "ca", Namespace: "a", ResourceVersion: "1"}}},
		})
	}))
	defer srv.Close()
	api, err := newAPI(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	n := &named{
		follower: &follower{api: api, log: slog.New(slog.DiscardHandler), inbox: newInbox()},
		all:      make(map[key]*namedOne), ending: make(map[key]<-chan struct{}),
	}
	defer n.wg.Wait()
	defer cancel()
	k := key{"ConfigMap", types.NamespacedName{Namespace: "a", Name: "ca"}}
	want := map[key]bool{k: true}
	there := map[key]object{}
	for range 20 {
		n.set(ctx, want)
		n.settled(ctx)
		old := n.all[k]
		n.set(ctx, nil)
		n.set(ctx, want)
		n.settled(ctx)
		<-old.done
		for k, o := range n.inbox.take() {
			there[k] = o
		}
		if there[k] == nil {
			t.Fatal("what is followed is gone: the end of the one before came late")
		}
	}
}
