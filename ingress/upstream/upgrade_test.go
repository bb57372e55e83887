package upstream

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
)

// upgrades is a backend whose connections become an echo of lines.
func upgrades(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 {
		http.Error(w, "upgrade over "+r.Proto, 400)
		return
	}
	if r.URL.Path == "/no" {
		io.WriteString(w, "no")
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer c.Close()
	rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lines\r\n\r\nhello\n")
	rw.Flush()
	for {
		line, err := rw.ReadString('\n')
		if err != nil {
			rw.WriteString("bye\n")
			rw.Flush()
			return
		}
		rw.WriteString(strings.ToUpper(line))
		rw.Flush()
	}
}

func TestUpgrade(t *testing.T) {
	srv := h2cServer(t, upgrades, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		s := newSet(t, SetConfig{})
		c := one(t, s, Config{Protocol: proto, Endpoints: []Endpoint{at(t, srv.URL)}})
		upgrade := func(path string) *http.Response {
			r := request(t, "GET", path, "")
			r.Header.Set("Connection", "keep-alive, Upgrade")
			r.Header.Set("Upgrade", "lines")
			h, _ := c.Pick(Pick{})
			resp, err := c.RoundTrip(r, h)
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		resp := upgrade("/")
		body, ok := resp.Body.(io.ReadWriteCloser)
		if resp.StatusCode != 101 || !ok {
			t.Fatalf("%v: status %d, body %T", proto, resp.StatusCode, resp.Body)
		}
		br := bufio.NewReader(body)
		want := func(s string) {
			t.Helper()
			if got, err := br.ReadString('\n'); got != s || err != nil {
				t.Fatalf("read %q, %v; want %q", got, err, s)
			}
		}
		want("hello\n")
		io.WriteString(body, "abc\n")
		want("ABC\n")
		if n := c.Status().Endpoints[0].Active; n != 1 {
			t.Errorf("%d under way while upgraded, want 1", n)
		}
		if err := body.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		want("bye\n")
		body.Close()
		body.Close()
		if st := c.Status().Endpoints[0]; st.Active != 0 || st.Connections != 0 {
			t.Errorf("after Close: %+v", st)
		}
		// A backend that does not upgrade gives its connection back.
		resp = upgrade("/no")
		if b, _ := io.ReadAll(resp.Body); string(b) != "no" {
			t.Errorf("got %q", b)
		}
		resp.Body.Close()
		if st := c.Status().Endpoints[0]; st.Idle != 1 {
			t.Errorf("after an upgrade that was refused: %+v, want one idle connection", st)
		}
	}
}
