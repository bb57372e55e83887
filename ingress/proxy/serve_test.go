package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// seen is what a backend saw of a request.
type seen struct {
	Method, Host, URI, Proto string
	Header                   http.Header
	Length                   int64
	Encoding                 []string
	Body                     string
}

func echoBackend(t testing.TB) *upstream.Config {
	return backend(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Server", "backend")
		w.Header().Set("Keep-Alive", "timeout=5")
		_ = json.NewEncoder(w).Encode(seen{r.Method, r.Host, r.RequestURI, r.Proto, r.Header, r.ContentLength, r.TransferEncoding, string(b)})
	})
}

func parse(t testing.TB, body string) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return s
}

func TestBackendSeesEdgeHeaders(t *testing.T) {
	e := newEdge(t, one(echoBackend(t)), toA())
	e.cl.AltSvc = `h3=":443"; ma=86400`
	req := e.request("GET", "/get?x=1", nil,
		"X-Forwarded-For", "6.6.6.6", "X-Forwarded-Proto", "https", "X-Forwarded-Host", "evil", "X-Forwarded-Client-Cert", "evil",
		"Forwarded", "for=evil", "X-Real-Ip", "6.6.6.6", "X-Envoy-Internal", "true", "X-Envoy-Original-Path", "/admin", "X-Request-Id", "mine",
		"Connection", "X-Hop", "X-Hop", "1", "Te", "trailers", "Accept", "*/*")
	req.Host = "www.example.com"
	res, body := e.do(req)
	s := parse(t, body)
	if s.Host != "www.example.com" || s.URI != "/get?x=1" || s.Method != "GET" || s.Proto != "HTTP/1.1" {
		t.Errorf("backend saw %+v", s)
	}
	if s.Length != 0 || s.Encoding != nil {
		t.Errorf("a request without a body arrived with length %d, encoding %v", s.Length, s.Encoding)
	}
	id := s.Header.Get("X-Request-Id")
	if len(id) != 36 {
		t.Errorf("request id %q", id)
	}
	for _, n := range []string{"X-Request-Id", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid", "Traceparent"} {
		if len(s.Header[n]) != 1 {
			t.Errorf("%s: %v", n, s.Header[n])
		}
		delete(s.Header, n)
	}
	want := http.Header{
		"Accept": {"*/*"}, "User-Agent": {"Go-http-client/1.1"}, "Te": {"trailers"},
		"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"http"}, "X-Envoy-Internal": {"true"},
		"X-Envoy-Expected-Rq-Timeout-Ms": {"15000"}, "X-Envoy-Attempt-Count": {"1"}, "X-B3-Sampled": {"0"},
	}
	if d := cmp.Diff(want, s.Header); d != "" {
		t.Errorf("headers that the backend saw (-want +got):\n%s", d)
	}
	for name, v := range map[string]string{"Server": "adit", "Alt-Svc": `h3=":443"; ma=86400`, "Keep-Alive": "", "Content-Length": fmt.Sprint(len(body))} {
		if got := res.Header.Get(name); got != v {
			t.Errorf("answer's %s: %q, want %q", name, got, v)
		}
	}
	if res.Header.Get("X-Envoy-Upstream-Service-Time") == "" || len(res.Header["Date"]) != 1 {
		t.Errorf("answer: %v", res.Header)
	}
	x := e.last(1)
	if x.Status != 200 || x.Flags != "" || x.Sent != int64(len(body)) || x.Received != 0 || x.Attempts != 1 || x.Cluster != "a" ||
		x.Upstream != e.conf["a"].Key || x.RequestID != id || x.ForwardedFor != "127.0.0.1" || x.Path != "/get?x=1" || x.Host != "www.example.com" || x.Duration <= 0 {
		t.Errorf("record: %+v", x)
	}
}

func TestTrustedPeerIsBelieved(t *testing.T) {
	e := newEdge(t, one(echoBackend(t)), toA())
	e.cl.Trust = Trust{CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	_, body := e.get("/", "X-Forwarded-For", "6.6.6.6, 198.51.100.7", "X-Forwarded-Proto", "https", "X-Request-Id", "mine", "X-Forwarded-Host", "h")
	h := parse(t, body).Header
	for name, v := range map[string]string{
		"X-Forwarded-For": "198.51.100.7, 127.0.0.1", "X-Forwarded-Proto": "https", "X-Request-Id": "mine", "X-Forwarded-Host": "h", "X-Envoy-Internal": "",
	} {
		if got := h.Get(name); got != v {
			t.Errorf("%s: %q, want %q", name, got, v)
		}
	}
}

func TestAnswersWithoutBackend(t *testing.T) {
	ok := echoBackend(t)
	conf := map[string]*upstream.Config{"a": ok, "empty": {Key: "empty"}, "down": clusterOf(upstream.HTTP1, closedPort(t))}
	grpc := []string{"Content-Type", "application/grpc"}
	for _, c := range []struct {
		name   string
		rule   Rule
		method string
		header []string
		status int
		flags  string
		grpc   string
	}{
		{"no backends", Rule{}, "", nil, 500, "", "14"},
		{"all weights zero", Rule{Backends: []Backend{{Cluster: "a"}, {Cluster: "a"}}}, "", nil, 500, "", "14"},
		{"wrong reference", Rule{Backends: []Backend{{Status: 500, Reason: "BackendNotFound", Weight: 1}}}, "", nil, 500, "", "14"},
		{"unresolved filter", Rule{Filters: Filters{Invalid: "ExtensionRef"}, Backends: toA().Backends}, "", nil, 500, "", "14"},
		{"unresolved filter of the backend", Rule{Backends: []Backend{{Cluster: "a", Weight: 1, Filters: Filters{Invalid: "x"}}}}, "", nil, 500, "", "14"},
		{"no endpoints", Rule{Backends: []Backend{{Cluster: "empty", Weight: 1}}}, "", nil, 503, "UH", "14"},
		{"unknown cluster", Rule{Backends: []Backend{{Cluster: "gone", Weight: 1}}}, "", nil, 503, "NC", "14"},
		{"connection refused", Rule{Backends: []Backend{{Cluster: "down", Weight: 1}}}, "", nil, 503, "UF", "14"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t, conf, &c.rule)
			res, body := e.do(e.request("GET", "/", nil, c.header...))
			if res.StatusCode != c.status || body == "" || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("got %d %q %v, want %d with a reason", res.StatusCode, body, res.Header, c.status)
			}
			if strings.Contains(body, "127.0.0.1") {
				t.Errorf("the client learns an address: %q", body)
			}
			if x := e.last(1); x.Status != c.status || x.Flags != c.flags || x.Detail == "" && c.name != "wrong reference" {
				t.Errorf("record: %d %q %q, want %d %q", x.Status, x.Flags, x.Detail, c.status, c.flags)
			}
			res, body = e.do(e.request("POST", "/s/m", nil, grpc...))
			if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != c.grpc || res.Header.Get("Grpc-Message") == "" || body != "" {
				t.Errorf("gRPC: got %d %v %q, want grpc-status %s", res.StatusCode, res.Header, body, c.grpc)
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	e := newEdge(t, nil, nil)
	srv := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.p.Refuse(w, r, NewExchange(), 404, "NR", "no route")
	})
	e2 := newEdge(t, one(backend(t, srv)), toA())
	res, body := e2.get("/")
	if res.StatusCode != 404 || body != "no route matches this request\n" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
	res, _ = e2.do(e2.request("POST", "/", nil, "Content-Type", "application/grpc"))
	if res.Header.Get("Grpc-Status") != "12" {
		t.Errorf("gRPC: %v", res.Header)
	}
	if x := e.last(2); x.Flags != "NR" || x.Detail != "no route" || x.Rule != nil {
		t.Errorf("record: %+v", x)
	}
}

func TestUnresolvedBackendGetsItsShare(t *testing.T) {
	e := newEdge(t, one(echoBackend(t)), &Rule{Backends: []Backend{{Cluster: "a", Weight: 1}, {Status: 500, Weight: 1}, {Status: 500, Weight: 0}}})
	var failed int
	for range 200 {
		if res, _ := e.get("/"); res.StatusCode == 500 {
			failed++
		}
	}
	if failed < 60 || failed > 140 {
		t.Errorf("%d of 200 requests failed, want about half", failed)
	}
}

func TestRuleAndBackendFilters(t *testing.T) {
	rule := &Rule{
		Prefix: "/old",
		Filters: Filters{
			RequestHeaders:  HeaderChange{Set: []HeaderValue{{"X-Level", "rule"}}, Add: []HeaderValue{{"X-Add", "rule"}}, Remove: []string{"X-Gone"}},
			ResponseHeaders: HeaderChange{Set: []HeaderValue{{"X-Answer", "rule"}}, Remove: []string{"Server"}},
			Rewrite:         &Rewrite{Path: Path{Prefix: ptr("/new")}},
		},
		Backends: []Backend{{Cluster: "a", Weight: 1, Filters: Filters{
			RequestHeaders:  HeaderChange{Set: []HeaderValue{{"X-Level", "backend"}}, Add: []HeaderValue{{"X-Add", "backend"}}},
			ResponseHeaders: HeaderChange{Add: []HeaderValue{{"X-Answer", "backend"}}},
			Rewrite:         &Rewrite{Host: "inner.test"},
		}}},
	}
	e := newEdge(t, one(echoBackend(t)), rule)
	req := e.request("GET", "/old/a%2Fb?q=1&r=%20", nil, "X-Add", "client", "X-Gone", "1")
	req.Host = "outer.test"
	res, body := e.do(req)
	s := parse(t, body)
	if s.URI != "/new/a%2Fb?q=1&r=%20" || s.Host != "inner.test" {
		t.Errorf("backend was asked for %s of %s", s.URI, s.Host)
	}
	got := [][]string{s.Header["X-Level"], s.Header["X-Add"], s.Header["X-Gone"], s.Header["X-Envoy-Original-Path"], s.Header["X-Forwarded-Host"]}
	want := [][]string{{"backend"}, {"client", "rule", "backend"}, nil, {"/old/a%2Fb?q=1&r=%20"}, {"outer.test"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("request headers (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"rule", "backend"}, res.Header["X-Answer"]); d != "" || res.Header["Server"] != nil {
		t.Errorf("answer's headers: %v", res.Header)
	}
}

func TestRedirectAnswer(t *testing.T) {
	e := newEdge(t, nil, &Rule{Filters: Filters{
		Redirect:        &Redirect{Scheme: "https", Status: 308},
		ResponseHeaders: HeaderChange{Set: []HeaderValue{{"X-Answer", "1"}}},
	}})
	req := e.request("POST", "/x?y", strings.NewReader("body"))
	req.Host = "a.test:8080"
	res, body := e.do(req)
	if res.StatusCode != 308 || res.Header.Get("Location") != "https://a.test/x?y" || res.Header.Get("X-Answer") != "1" || body != "" {
		t.Errorf("got %d %v %q", res.StatusCode, res.Header, body)
	}
	if x := e.last(1); x.Status != 308 || x.Flags != "" || x.Cluster != "" {
		t.Errorf("record: %+v", x)
	}
}

func TestCORSAnswers(t *testing.T) {
	rule := toA()
	rule.Filters.CORS = &CORS{Origins: []Origin{{Exact: "https://a.test"}}, Methods: []string{"PUT"}}
	conf := map[string]*upstream.Config{"a": backend(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("X-Method", r.Method)
	})}
	e := newEdge(t, conf, rule)
	res, _ := e.do(e.request("OPTIONS", "/", nil, "Origin", "https://a.test", "Access-Control-Request-Method", "PUT"))
	if res.StatusCode != 204 || res.Header.Get("Access-Control-Allow-Origin") != "https://a.test" || res.Header.Get("X-Method") != "" {
		t.Errorf("preflight: %d %v", res.StatusCode, res.Header)
	}
	res, _ = e.do(e.request("OPTIONS", "/", nil, "Origin", "https://b.test", "Access-Control-Request-Method", "PUT"))
	if res.StatusCode != 403 || res.Header["Access-Control-Allow-Origin"] != nil {
		t.Errorf("preflight of a stranger: %d %v", res.StatusCode, res.Header)
	}
	res, _ = e.do(e.request("OPTIONS", "/", nil, "Origin", "https://a.test"))
	if res.Header.Get("X-Method") != "OPTIONS" {
		t.Error("OPTIONS that is no preflight did not reach the backend")
	}
	res, _ = e.get("/", "Origin", "https://b.test")
	if res.StatusCode != 200 || res.Header["Access-Control-Allow-Origin"] != nil || res.Header.Get("Vary") != "Origin" {
		t.Errorf("request of a stranger: %d %v", res.StatusCode, res.Header)
	}
	rule.Backends = nil
	res, _ = e.get("/", "Origin", "https://a.test")
	if res.StatusCode != 500 || res.Header.Get("Access-Control-Allow-Origin") != "https://a.test" {
		t.Errorf("a script must be able to read errors of ours: %d %v", res.StatusCode, res.Header)
	}
}

func TestPlainConnectIsRefused(t *testing.T) {
	e := newEdge(t, one(echoBackend(t)), toA())
	c, err := net.Dial("tcp", strings.TrimPrefix(e.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\nConnection: close\r\n\r\n")
	if line, _ := bufio.NewReader(c).ReadString('\n'); !strings.HasPrefix(line, "HTTP/1.1 405") {
		t.Errorf("got %q", line)
	}
}

func TestUnknownExpectationIsRefused(t *testing.T) {
	e := newEdge(t, one(echoBackend(t)), toA())
	for expect, want := range map[string]int{"a-miracle": 417, "100-Continue": 200} {
		r := httptest.NewRequest("POST", "/", strings.NewReader("x"))
		r.Header.Set("Expect", expect)
		w := httptest.NewRecorder()
		e.serve(w, r)
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", expect, w.Code, want)
		}
		if want == 200 && parse(t, w.Body.String()).Header["Expect"] != nil {
			t.Error("the backend was asked for a 100 that we have said already")
		}
	}
}
