package proxy

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// crowd is two clusters of three endpoints each, of which each tells its name.
func crowd(t testing.TB) map[string]*upstream.Config {
	conf := map[string]*upstream.Config{}
	for _, key := range []string{"a", "b"} {
		c := &upstream.Config{Key: key}
		for i := range 3 {
			name := fmt.Sprint(key, i)
			c.Endpoints = append(c.Endpoints, backend(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Set-Cookie", "other=1")
				_, _ = io.WriteString(w, name)
			}).Endpoints...)
		}
		conf[key] = c
	}
	return conf
}

func bothBackends(p *Persistence) *Rule {
	return &Rule{Backends: []Backend{{Cluster: "a", Weight: 1}, {Cluster: "b", Weight: 1}}, Persistence: p}
}

func cookie(res *http.Response, name string) *http.Cookie {
	for _, c := range res.Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func TestCookieSession(t *testing.T) {
	for _, c := range []struct {
		name string
		p    Persistence
		want string // of the cookie, after its value
	}{
		{"session", Persistence{Cookie: "sid", Path: "/app", Absolute: time.Hour}, "; Path=/app; HttpOnly; SameSite=Strict"},
		{"permanent", Persistence{Cookie: "sid", Permanent: true, Absolute: time.Hour}, "; Max-Age=3600; HttpOnly; SameSite=Strict"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEdge(t, crowd(t), bothBackends(&c.p))
			for range 10 {
				res, first := e.get("/")
				ck := cookie(res, "sid")
				if ck == nil || cookie(res, "other") == nil {
					t.Fatalf("cookies: %v", res.Header["Set-Cookie"])
				}
				if strings.Contains(ck.Value, "127.0.0.1") || ck.Raw != "sid="+ck.Value+c.want {
					t.Errorf("cookie %q, want attributes %q", ck.Raw, c.want)
				}
				for range 10 {
					res, body := e.get("/", "Cookie", "x=y; sid=somebody-else's; sid="+ck.Value)
					if body != first || cookie(res, "sid") != nil {
						t.Fatalf("session with %s: answered by %s, cookie %v", first, body, cookie(res, "sid"))
					}
				}
			}
		})
	}
}

func TestHeaderSession(t *testing.T) {
	e := newEdge(t, crowd(t), bothBackends(&Persistence{Header: "X-Session"}))
	res, first := e.get("/")
	token := res.Header.Get("X-Session")
	for range 20 {
		if res, body := e.get("/", "X-Session", token); body != first || res.Header.Get("X-Session") != "" {
			t.Fatalf("session with %s: answered by %s, token %q", first, body, res.Header.Get("X-Session"))
		}
	}
}

func TestSessionOutlivesItsBackendsWeight(t *testing.T) {
	conf := crowd(t)
	rule := bothBackends(&Persistence{Header: "X-Session"})
	rule.Backends[1].Weight = 0
	e := newEdge(t, conf, rule)
	rule.Backends[0].Weight, rule.Backends[1].Weight = 0, 1
	res, first := e.get("/")
	rule.Backends[0].Weight, rule.Backends[1].Weight = 1, 0
	for range 20 {
		if _, body := e.get("/", "X-Session", res.Header.Get("X-Session")); body != first {
			t.Fatalf("session with %s: answered by %s", first, body)
		}
		if _, body := e.get("/"); body[0] != 'a' {
			t.Fatalf("without a session: answered by %s", body)
		}
	}
}

func TestSessionThatIsOverBeginsAnew(t *testing.T) {
	now := time.Now()
	e := newEdge(t, crowd(t), bothBackends(&Persistence{Cookie: "sid", Absolute: time.Hour}))
	live := e.conf["a"].Endpoints[0].Addr.String()
	res, _ := e.get("/")
	if cookie(res, "sid") == nil {
		t.Fatal("no cookie")
	}
	for name, token := range map[string]string{
		"too old":         makeToken("a", live, now.Add(-2*time.Hour), now),
		"from the future": makeToken("a", live, now.Add(time.Hour), now),
		"another rule's":  makeToken("c", live, now, now),
		"gone endpoint":   makeToken("a", "192.0.2.1:80", now, now),
		"no token":        "garbage",
	} {
		if res, _ := e.get("/", "Cookie", "sid="+token); res.StatusCode != 200 || cookie(res, "sid") == nil {
			t.Errorf("%s: %d, cookie %v", name, res.StatusCode, cookie(res, "sid"))
		}
	}
}

func TestIdleSession(t *testing.T) {
	e := newEdge(t, crowd(t), bothBackends(&Persistence{Cookie: "sid", Idle: time.Hour}))
	res, first := e.get("/")
	ck := cookie(res, "sid")
	res, body := e.get("/", "Cookie", "sid="+ck.Value)
	if body != first || cookie(res, "sid") == nil {
		t.Errorf("answered by %s, not %s, cookie %v: each use must renew it", body, first, cookie(res, "sid"))
	}
	cluster, ep, begun, _, _ := parseToken(ck.Value)
	old := makeToken(cluster, ep, begun.Add(-3*time.Hour), begun.Add(-2*time.Hour))
	res, _ = e.get("/", "Cookie", "sid="+old)
	if _, _, b, _, ok := parseToken(cookie(res, "sid").Value); !ok || time.Since(b) > time.Minute {
		t.Errorf("a session that was idle for too long went on, begun %v", b)
	}
}
