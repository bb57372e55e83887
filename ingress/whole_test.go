package ingress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
	"github.com/adit-mesh/adit/ingress/upstream"
)

// startWhole runs the gateway with everything behind it, in front of handler.
func startWhole(t *testing.T, ca *authority, bind Bind, handler http.Handler) *testServer {
	t.Helper()
	backend := httptest.NewServer(handler)
	t.Cleanup(backend.Close)
	set := upstream.NewSet(upstream.SetConfig{})
	p := proxy.New(proxy.Config{Set: set})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p.Close(ctx)
		set.Close(ctx)
	})
	s := start(t, ServerConfig{Backends: FromSet(set), Proxy: p})
	b := route.NewBuilder[*proxy.Rule]()
	b.Set("all", []route.Entry[*proxy.Rule]{{Value: &proxy.Rule{Name: "all", RequestTimeout: -1, Backends: []proxy.Backend{{Cluster: "app", Weight: 1}}}}})
	l := httpsListener("https", "", []*tls.Certificate{ca.issue(t, "a.org")})
	l.Routes = b.Table()
	a := s.Apply(&Config{
		Ports: []*Port{httpsPort(bind, 443, l)},
		Clusters: map[string]*upstream.Config{"app": {Key: "app", Endpoints: []upstream.Endpoint{
			{Addr: netip.MustParseAddrPort(backend.Listener.Addr().String())}}}},
	})
	if len(a.Failed)+len(a.NoQUIC) > 0 {
		t.Fatal(a)
	}
	return s
}

func TestWholeRequests(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	startWhole(t, ca, bind, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "Sum")
		fmt.Fprintf(w, "%s %s %d te=%q cl=%d proto=%s xff=%s", r.Method, r.URL.RequestURI(), n, r.TransferEncoding, r.ContentLength,
			r.Header.Get("X-Forwarded-Proto"), r.Header.Get("X-Forwarded-For"))
		w.Header().Set("Sum", fmt.Sprint(n))
	}))
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			c := dialHTTP(t, v, bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org"})
			read := func(req *http.Request) (string, http.Header) {
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				for k, v := range resp.Trailer {
					resp.Header["Trailer-"+k] = v
				}
				return string(body), resp.Header
			}
			req, _ := http.NewRequest("GET", "https://a.org/x%2Fy?q=1", nil)
			got, h := read(req)
			if want := `GET /x%2Fy?q=1 0 te=[] cl=0 proto=https xff=127.0.0.1`; got != want {
				t.Errorf("the backend saw %s, want %s", got, want)
			}
			if h.Get("Alt-Svc") != `h3=":443"; ma=86400` || h.Get("Server") != "adit" {
				t.Errorf("headers are %v", h)
			}
			req, _ = http.NewRequest("POST", "https://a.org/up", io.LimitReader(zeros{}, 3<<20))
			got, h = read(req)
			if !strings.HasPrefix(got, "POST /up 3145728 ") {
				t.Errorf("the backend saw %s", got)
			}
			if h.Get("Trailer-Sum") != "3145728" {
				t.Errorf("the trailer is %q", h.Get("Trailer-Sum"))
			}
		})
	}
}

// TestWebSocketOutlivesChanges: on HTTP/1.1, and by extended CONNECT on HTTP/2 and
// HTTP/3, a WebSocket goes on while listener, certificate and routes change.
func TestWebSocketOutlivesChanges(t *testing.T) {
	ca := newAuthority(t)
	bind := freeBind(t)
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	s := startWhole(t, ca, bind, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil {
				return
			}
			c.WriteMessage(kind, append([]byte("echo "), b...))
		}
	}))
	echoes := map[string]func(string) (string, error){
		"h1": webSocketH1(t, bind, ca),
		"h2": webSocketH2(t, bind, ca),
		"h3": webSocketH3(t, bind, ca),
	}
	for i := range 5 {
		for v, echo := range echoes {
			want := fmt.Sprint("echo ", i)
			if got, err := echo(fmt.Sprint(i)); err != nil || got != want {
				t.Errorf("%s after %d changes: got %q, %v", v, i, got, err)
			}
		}
		s.Apply(&Config{Ports: []*Port{httpsPort(bind, 443, httpsListener(fmt.Sprint("l", i), "", []*tls.Certificate{ca.issue(t, "a.org")}, "/gone"))}})
	}
}

func webSocketH1(t *testing.T, bind Bind, ca *authority) func(string) (string, error) {
	d := websocket.Dialer{TLSClientConfig: &tls.Config{RootCAs: ca.pool, ServerName: "a.org"},
		NetDialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", bind.String())
		}}
	c, _, err := d.Dial("wss://a.org/chat", nil)
	if err != nil {
		t.Fatal("WebSocket over HTTP/1.1:", err)
	}
	t.Cleanup(func() { c.Close() })
	return func(s string) (string, error) {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if err := c.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
			return "", err
		}
		_, b, err := c.ReadMessage()
		return string(b), err
	}
}

// webSocketH3 opens a WebSocket by extended CONNECT (RFC 9220). Its frames are
// written by hand, as gorilla knows of HTTP/1.1 alone.
func webSocketH3(t *testing.T, bind Bind, ca *authority) func(string) (string, error) {
	qc, err := quic.DialAddr(t.Context(), bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org", NextProtos: []string{"h3"}}, &quic.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { qc.CloseWithError(0, "") })
	h3 := new(http3.Transport).NewClientConn(qc)
	select {
	case <-h3.ReceivedSettings():
	case <-time.After(5 * time.Second):
		t.Fatal("no SETTINGS came")
	}
	if !h3.Settings().EnableExtendedConnect {
		t.Fatal("SETTINGS do not offer extended CONNECT")
	}
	str, err := h3.OpenRequestStream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodConnect, "https://a.org/chat", nil)
	req.Proto = "websocket"
	req.Header.Set("Sec-WebSocket-Version", "13")
	if err := str.SendRequestHeader(req); err != nil {
		t.Fatal(err)
	}
	resp, err := str.ReadResponse()
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("WebSocket over HTTP/3: %v, %v", resp, err)
	}
	return echoing(str, func() { str.SetReadDeadline(time.Now().Add(5 * time.Second)) })
}

// echoing sends a text frame and reads another (RFC 6455 section 5.2).
func echoing(rw io.ReadWriter, arm func()) func(string) (string, error) {
	r := bufio.NewReader(rw)
	return func(s string) (string, error) {
		arm()
		frame := append([]byte{0x81, 0x80 | byte(len(s)), 0, 0, 0, 0}, s...) // masked with zeros
		if _, err := rw.Write(frame); err != nil {
			return "", err
		}
		head := make([]byte, 2)
		if _, err := io.ReadFull(r, head); err != nil {
			return "", err
		}
		b := make([]byte, head[1])
		_, err := io.ReadFull(r, b)
		return string(b), err
	}
}

// webSocketH2 is webSocketH3 over HTTP/2 (RFC 8441).
func webSocketH2(t *testing.T, bind Bind, ca *authority) func(string) (string, error) {
	c, err := tls.Dial("tcp", bind.String(), &tls.Config{RootCAs: ca.pool, ServerName: "a.org", NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	arm := func() { c.SetReadDeadline(time.Now().Add(5 * time.Second)) }
	arm()
	io.WriteString(c, preface)
	str := &h2Stream{fr: http2.NewFramer(c, c)}
	str.fr.WriteSettings()
	for !str.extended {
		if err := str.next(); err != nil {
			t.Fatal("SETTINGS do not offer extended CONNECT: ", err)
		}
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "CONNECT"}, {Name: ":protocol", Value: "websocket"}, {Name: ":scheme", Value: "https"},
		{Name: ":path", Value: "/chat"}, {Name: ":authority", Value: "a.org"}, {Name: "sec-websocket-version", Value: "13"},
	} {
		enc.WriteField(f)
	}
	str.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true})
	for str.status == "" {
		if err := str.next(); err != nil {
			t.Fatal("WebSocket over HTTP/2: ", err)
		}
	}
	if str.status != "200" {
		t.Fatalf("WebSocket over HTTP/2: %s", str.status)
	}
	return echoing(str, arm)
}

// h2Stream is stream 1 of an HTTP/2 client.
type h2Stream struct {
	fr       *http2.Framer
	extended bool
	status   string
	data     []byte
}

// next reads a frame.
func (s *h2Stream) next() error {
	f, err := s.fr.ReadFrame()
	if err != nil {
		return err
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if v, ok := f.Value(http2.SettingEnableConnectProtocol); ok {
			s.extended = v == 1
		}
		if !f.IsAck() {
			return s.fr.WriteSettingsAck()
		}
	case *http2.HeadersFrame:
		fields, err := hpack.NewDecoder(4096, nil).DecodeFull(f.HeaderBlockFragment())
		if err != nil {
			return err
		}
		s.status = fields[0].Value
	case *http2.DataFrame:
		s.data = append(s.data, f.Data()...)
	case *http2.RSTStreamFrame, *http2.GoAwayFrame:
		return fmt.Errorf("got %v", f)
	}
	return nil
}

func (s *h2Stream) Read(p []byte) (int, error) {
	for len(s.data) == 0 {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

func (s *h2Stream) Write(p []byte) (int, error) { return len(p), s.fr.WriteData(1, false, p) }
