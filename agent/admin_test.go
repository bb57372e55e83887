package agent

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
)

// Whoever is on the network of a node reaches its loopback.
func TestNobodyOnTheNodeStopsItsAgent(t *testing.T) {
	a := &Agent{kube: new(kubernetes), stop: func(error) { t.Error("the agent stops") }}
	w := httptest.NewRecorder()
	a.adminHandler().ServeHTTP(w, httptest.NewRequest("POST", "http://127.0.0.1:15000/quitquitquit", nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("answer %d %s, want 403", w.Code, w.Body)
	}
	var why error
	a = &Agent{stop: func(err error) { why = err }}
	a.adminHandler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "http://127.0.0.1:15000/quitquitquit", nil))
	if !errors.Is(why, errQuit) {
		t.Errorf("outside of Kubernetes the agent stops because of %v, want %v", why, errQuit)
	}
}
