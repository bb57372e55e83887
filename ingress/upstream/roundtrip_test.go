package upstream

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHTTP1KeepsConnections(t *testing.T) {
	srv := serve(t, echo)
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{at(t, srv.URL)}})
	for range 5 {
		mustSend(t, c, request(t, "GET", "/a?b=c", ""), "GET /a?b=c backend.example ")
		mustSend(t, c, request(t, "POST", "/", "hello"), "POST / backend.example hello")
	}
	if n := s.Totals().Connects; n != 1 {
		t.Errorf("%d connections for requests one after another, want 1", n)
	}
}

func h2cServer(t testing.TB, h http.HandlerFunc, change func(*http.Server)) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Config.Protocols.SetHTTP1(true)
	if change != nil {
		change(srv.Config)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

func TestHTTP2Cleartext(t *testing.T) {
	srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the backend got %s, want HTTP/2", r.Proto)
		}
		if ua, ok := r.Header["User-Agent"]; ok {
			t.Errorf("a User-Agent %q was made up", ua)
		}
		w.Header().Set("Trailer", "Grpc-Status")
		echo(w, r)
		w.Header().Set("Grpc-Status", "0")
	}, nil)
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Protocol: H2, Endpoints: []Endpoint{at(t, srv.URL)}})
	for range 3 {
		resp := mustSend(t, c, request(t, "POST", "/svc/Method", "hello"), "POST /svc/Method backend.example hello")
		if got := resp.Trailer.Get("Grpc-Status"); got != "0" {
			t.Errorf("trailer %q, want 0", got)
		}
	}
	if n := s.Totals().Connects; n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}
