package accesslog

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/adit-mesh/adit/ingress/proxy"
	"github.com/adit-mesh/adit/ingress/route"
)

func exchange() *proxy.Exchange {
	spiffe, _ := url.Parse("spiffe://td/ns/n/sa/s")
	leaf := &x509.Certificate{
		Raw: []byte("der"), SerialNumber: big.NewInt(0xabc), Subject: pkix.Name{CommonName: "client", Organization: []string{"o"}},
		Issuer: pkix.Name{CommonName: "ca"}, URIs: []*url.URL{spiffe}, DNSNames: []string{"a.test", "b.test"},
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	return &proxy.Exchange{
		Client: proxy.Client{
			Remote: netip.MustParseAddrPort("[::ffff:192.0.2.1]:4711"),
			Local:  netip.MustParseAddrPort("[2001:db8::1]:443"),
			TLS: &tls.ConnectionState{
				Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256, ServerName: "www.example.com",
				PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}},
			},
		},
		Rule:   &proxy.Rule{Owner: route.Owner{Kind: "HTTPRoute", Namespace: "default", Name: "backend"}, Index: 3},
		Start:  time.Date(2026, 11, 21, 8, 9, 10, 123456789, time.UTC),
		Method: "GET", Path: "/get?a=b", Host: "www.example.com", Proto: "HTTP/2",
		Status: 200, Cluster: "default/backend:3000", Upstream: "10.0.0.1:3000", Attempts: 2,
		Received: 5, Sent: 1234, Duration: 42*time.Millisecond + 900*time.Microsecond,
		RequestTime: time.Millisecond, ResponseTime: 40 * time.Millisecond, UpstreamTime: 39 * time.Millisecond,
		RequestID: "5a1c9a5e-0f2f-4c1d-9a55-000000000000", ForwardedFor: "192.0.2.1",
		RequestHeader: http.Header{"User-Agent": {"curl/8"}, "Traceparent": {"00-1-2-01"}, "X-Two": {"a", "b"}, "X-Envoy-Mark": {"m"}},
		RespHeader:    http.Header{"X-Envoy-Upstream-Service-Time": {"39"}},
		Trailer:       http.Header{"Grpc-Status": {"0"}},
	}
}

func text(t testing.TB, format string, x *proxy.Exchange) string {
	t.Helper()
	f, err := Text(format)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(string(f.Append(nil, x)), "\n")
}

func TestOperators(t *testing.T) {
	for format, want := range map[string]string{
		"%START_TIME%":                             "2026-11-21T08:09:10.123Z",
		"%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%":     "2026/11/21T08:09:10+0000 1795248550",
		"%START_TIME(%s.%3f|%6f|%f|%%|%a %b %e)%":  "1795248550.123|123456|123456789|%|Sat Nov 21",
		"%START_TIME()%":                           "2026-11-21T08:09:10.123Z",
		`%START_TIME("%n")%`:                       `\" \"`,
		"%REQ(:METHOD)% %REQ(:path)%":              "GET /get?a=b",
		"%REQ(:AUTHORITY)% %REQ(Host)%":            "www.example.com www.example.com",
		"%REQ(:SCHEME)%":                           "https",
		"%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%":       "/get?a=b",
		"%REQ(user-agent):4%":                      "curl",
		"%REQ(user-agent):400%":                    "curl/8",
		"%REQ(TRACEPARENT)%":                       "00-1-2-01",
		"%REQ(X-TWO)% %REQ(X-NONE)%":               "a -",
		"%REQ(X-NONE?X-NEITHER)%":                  "-",
		"%REQ(X-NONE?X-TWO)%":                      "a",
		"%REQ(X-REQUEST-ID):8%":                    "5a1c9a5e",
		"%REQ(X-FORWARDED-FOR)%":                   "192.0.2.1",
		"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%":    "39",
		"%TRAILER(GRPC-STATUS)%":                   "0",
		"%RESPONSE_CODE% %RESPONSE_FLAGS%":         "200 -",
		"%RESPONSE_CODE_DETAILS%":                  "via_upstream",
		"%PROTOCOL%":                               "HTTP/2",
		"%BYTES_RECEIVED%/%BYTES_SENT%":            "5/1234",
		"%DURATION%":                               "42",
		"%REQUEST_DURATION% %RESPONSE_DURATION%":   "1 40",
		"%RESPONSE_TX_DURATION%":                   "2",
		"%UPSTREAM_HOST% %UPSTREAM_CLUSTER%":       "10.0.0.1:3000 default/backend:3000",
		"%UPSTREAM_REQUEST_ATTEMPT_COUNT%":         "2",
		"%ROUTE_NAME%":                             "HTTPRoute/default/backend/rule/3",
		"%ROUTE_NAME%:7":                           "HTTPRoute/default/backend/rule/3:7",
		"%ROUTE_NAME:9%":                           "HTTPRoute",
		"%DOWNSTREAM_REMOTE_ADDRESS%":              "192.0.2.1:4711",
		"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%": "192.0.2.1",
		"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%":       "192.0.2.1:4711",
		"%DOWNSTREAM_REMOTE_PORT%":                 "4711",
		"%DOWNSTREAM_LOCAL_ADDRESS%":               "[2001:db8::1]:443",
		"%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%":  "2001:db8::1",
		"%DOWNSTREAM_LOCAL_PORT%":                  "443",
		"%REQUESTED_SERVER_NAME%":                  "www.example.com",
		"%DOWNSTREAM_TLS_VERSION%":                 "TLSv1.3",
		"%DOWNSTREAM_TLS_CIPHER%":                  "TLS_AES_128_GCM_SHA256",
		"%DOWNSTREAM_PEER_SUBJECT%":                "CN=client,O=o",
		"%DOWNSTREAM_PEER_ISSUER%":                 "CN=ca",
		"%DOWNSTREAM_PEER_URI_SAN%":                "spiffe://td/ns/n/sa/s",
		"%DOWNSTREAM_PEER_DNS_SAN%":                "a.test,b.test",
		"%DOWNSTREAM_PEER_SERIAL%":                 "0abc",
		"%DOWNSTREAM_PEER_CERT_V_END%":             "2030-01-02T03:04:05.000Z",
		"%DOWNSTREAM_PEER_FINGERPRINT_256%":        "5050d80d22ecd471ea55df7034042c1e041341ff4066e7f6ff38e20b720df8ea",
		"100%% of %%":                              "100% of %",
		"":                                         "",
		"plain\n":                                  "plain",
	} {
		if got := text(t, format, exchange()); got != want {
			t.Errorf("%s is %s, want %s", format, got, want)
		}
	}
}

func TestWhatARequestDoesNotHaveIsADash(t *testing.T) {
	for name := range operators {
		got := text(t, "%"+name+"%", &proxy.Exchange{})
		switch name {
		case "RESPONSE_CODE", "BYTES_SENT", "BYTES_RECEIVED", "DURATION", "UPSTREAM_REQUEST_ATTEMPT_COUNT":
			if got != "0" {
				t.Errorf("%s of nothing is %q, want 0", name, got)
			}
		default:
			if got != "-" {
				t.Errorf("%s of nothing is %q, want -", name, got)
			}
		}
	}
	if got := text(t, "%START_TIME% %START_TIME(%s)% %REQ(:PATH)% %RESP(A)% %TRAILER(A)%", &proxy.Exchange{}); got != "- - - - -" {
		t.Errorf("got %q of nothing", got)
	}
}

func TestDefaultText(t *testing.T) {
	want := `[2026-11-21T08:09:10.123Z] "GET /get?a=b HTTP/2" 200 - 5 1234 42 39 "192.0.2.1" "curl/8" ` +
		`"5a1c9a5e-0f2f-4c1d-9a55-000000000000" "www.example.com" "10.0.0.1:3000"`
	if got := text(t, DefaultText, exchange()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestRefusedRequest(t *testing.T) {
	x := &proxy.Exchange{
		Client: proxy.Client{Remote: netip.MustParseAddrPort("192.0.2.9:1")},
		Method: "GET", Path: "/admin", Status: 404, Flags: "NR", Detail: "no rule matches",
		RequestHeader: http.Header{"X-Envoy-Original-Path": {"/harmless"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Request-Id": {"mine"}},
	}
	want := `192.0.2.9 /admin 404 NR no rule matches - - -`
	got := text(t, "%REQ(X-FORWARDED-FOR)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% "+
		"%RESPONSE_CODE_DETAILS% %REQ(X-REQUEST-ID)% %ROUTE_NAME% %REQ(X-FORWARDED-HOST)%", x)
	if got != want {
		t.Errorf("a client's claims are told as if they were true:\ngot  %s\nwant %s", got, want)
	}
}

func TestClientBehindTrustedHops(t *testing.T) {
	x := exchange()
	x.ForwardedFor = "203.0.113.7, 192.0.2.1"
	const f = "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"
	if got, want := text(t, f, x), "203.0.113.7:0 203.0.113.7 192.0.2.1"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestUnverifiedCertificatesAreNobodys(t *testing.T) {
	x := exchange()
	x.Client.TLS.VerifiedChains = nil
	if got := text(t, "%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_URI_SAN%", x); got != "- -" {
		t.Errorf("got %s of a certificate that nobody verified", got)
	}
}

// The format of the Envoy Gateway walk-through.
func TestJSON(t *testing.T) {
	f, err := JSON([]Field{
		{"time", "%START_TIME%"},
		{"trace_id", "%REQ(TRACEPARENT)%"},
		{"request_id", "%REQ(X-REQUEST-ID)%"},
		{"response_code", "%RESPONSE_CODE%"},
		{"response_flag", "%RESPONSE_FLAGS%"},
		{"method", "%REQ(:METHOD)%"},
		{"request", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"},
		{"protocol", "%PROTOCOL%"},
		{"bytes_received", "%BYTES_RECEIVED%"},
		{"bytes_send", "%BYTES_SENT%"},
		{"duration", "%DURATION%"},
		{"client_ip", "%REQ(X-FORWARDED-FOR)%"},
		{"user_agent", "%REQ(USER-AGENT)%"},
		{"authority", "%REQ(:AUTHORITY)%"},
		{"upstream_host", "%UPSTREAM_HOST%"},
		{"mixed \"é\"", "%RESPONSE_CODE% \"%RESP(NONE)%\""},
		{"constant", "50%%"},
		{"empty", ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"2026-11-21T08:09:10.123Z","trace_id":"00-1-2-01","request_id":"5a1c9a5e-0f2f-4c1d-9a55-000000000000",` +
		`"response_code":200,"response_flag":null,"method":"GET","request":"/get?a=b","protocol":"HTTP/2",` +
		`"bytes_received":5,"bytes_send":1234,"duration":42,"client_ip":"192.0.2.1","user_agent":"curl/8",` +
		`"authority":"www.example.com","upstream_host":"10.0.0.1:3000","mixed \"é\"":"200 \"-\"","constant":"50%","empty":""}` + "\n"
	got := string(f.Append(nil, exchange()))
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !json.Valid([]byte(got)) {
		t.Error("that is no JSON")
	}
	if _, err := JSON(DefaultJSON()); err != nil {
		t.Errorf("the default object: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	for format, want := range map[string]string{
		"%RESPONSE_COD%":               "access log: column 1: unknown operator %RESPONSE_COD%; the nearest are %RESPONSE_CODE%, ",
		"x %BYTES_RECIEVED%":           "access log: column 3: unknown operator %BYTES_RECIEVED%; the nearest are %BYTES_RECEIVED%, ",
		"%UPSTREAM%":                   "unknown operator %UPSTREAM%; the nearest are %UPSTREAM_CLUSTER%, %UPSTREAM_HOST%, %UPSTREAM_REQUEST_ATTEMPT_COUNT%",
		"%REQ%":                        "column 1: %REQ% takes the name of a header: %REQ(NAME)%, or %REQ(NAME?OTHER)%",
		"%REQ()%":                      "takes the name of a header",
		"%REQ(a b)%":                   `%REQ(a b)%: "a b" is no name of a header`,
		"%RESP(A?)%":                   `%RESP(A?)%: "" is no name of a header`,
		"%RESP(:STATUS)%":              `":STATUS" is no name of a header`,
		"%REQ(A%":                      "%REQ( has no closing parenthesis",
		"%REQ(A)":                      "%REQ has no closing percent sign; a percent sign itself is written %%",
		"%REQ(A):%":                    `%REQ: length "" is not a positive number`,
		"%REQ(A):0%":                   `%REQ: length "0" is not a positive number`,
		"%REQ(A):9999999999999999999%": "is not a positive number",
		"50% off":                      `column 3: "% off" begins no operator; a percent sign itself is written %%`,
		"100%":                         `column 4: "%" begins no operator`,
		"%DURATION(ms)%":               `%DURATION% takes no argument, has "ms"`,
		"%START_TIME(%Q)%":             "%START_TIME(%Q)%: %Q is no conversion for times",
		"%START_TIME(%)%":              "the time format ends in a percent sign",
	} {
		_, err := Text(format)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", format, err, want)
		}
	}
	for want, fields := range map[string][]Field{
		"has no members":                     nil,
		`member "a" is there twice`:          {{"a", ""}, {"a", ""}},
		`JSON member "a": column 1: unknown`: {{"a", "%X%"}},
	} {
		if _, err := JSON(fields); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %s", fields, err, want)
		}
	}
}

func TestNothingEndsALineOrItsQuotes(t *testing.T) {
	for evil, want := range map[string][2]string{
		"a\nb":               {`a\nb`, `a\nb`},
		"a\r\tb":             {`a\r\tb`, `a\r\tb`},
		`"; \`:               {`\"; \\`, `\"; \\`},
		"\x00\x1b[2J":        {`\x00\x1b[2J`, `\u0000\u001b[2J`},
		"\x7f":               {`\x7f`, `\u007f`},
		"\u0085\u2028\u2029": {`\u0085\u2028\u2029`, `\u0085\u2028\u2029`},
		"\u202egnp.exe":      {`\u202egnp.exe`, `\u202egnp.exe`},
		"\U000e0041":         {`\udb40\udc41`, `\udb40\udc41`},
		"\xff\xfea":          {`\xff\xfea`, `\ufffd\ufffda`},
		"é世":                 {"é世", "é世"},
		"%REQ(A)%":           {"%REQ(A)%", "%REQ(A)%"},
	} {
		x := &proxy.Exchange{Path: evil, RequestHeader: http.Header{"A": {evil}}, Detail: evil, Host: evil, Method: evil}
		for _, f := range []string{"%REQ(A)%", "%REQ(:PATH)%", "%RESPONSE_CODE_DETAILS%", "%REQ(:AUTHORITY)%", "%REQ(:METHOD)%"} {
			if got := text(t, f, x); got != want[0] {
				t.Errorf("%q as %s is written as %s, want %s", evil, f, got, want[0])
			}
		}
		f, _ := JSON([]Field{{"a", "%REQ(A)%"}})
		if got := string(f.Append(nil, x)); got != `{"a":"`+want[1]+"\"}\n" {
			t.Errorf("%q in JSON is %s, want %s", evil, got, want[1])
		}
	}
}

func TestLengthTearsNoCharacter(t *testing.T) {
	x := &proxy.Exchange{Path: "aé世界"}
	for limit, want := range map[string]string{"1": "a", "2": "a", "3": "aé", "5": "aé", "6": "aé世", "99": "aé世界"} {
		if got := text(t, "%REQ(:PATH):"+limit+"%", x); got != want {
			t.Errorf("%s bytes are %q, want %q", limit, got, want)
		}
	}
}

func TestDefaultFormatsAllocateNothing(t *testing.T) {
	x := exchange()
	txt, _ := Text(DefaultText)
	obj, _ := JSON(DefaultJSON())
	b := make([]byte, 0, 4096)
	for name, f := range map[string]*Format{"text": txt, "JSON": obj} {
		if n := testing.AllocsPerRun(100, func() { f.Append(b, x) }); n != 0 {
			t.Errorf("%s: %v allocations a line", name, n)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	x := exchange()
	txt, _ := Text(DefaultText)
	obj, _ := JSON(DefaultJSON())
	buf := make([]byte, 0, 4096)
	for name, f := range map[string]*Format{"text": txt, "json": obj} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f.Append(buf, x)
			}
		})
	}
}

// FuzzFormat compiles what it is given, and writes lines of what compiles about a
// request that is made of the same bytes.
func FuzzFormat(f *testing.F) {
	f.Add(DefaultText, "a\n\"")
	f.Add("%REQ(A?:PATH):3%%START_TIME(%s %3f)%%%", "\xff\u2028\\")
	f.Add("%REQ(", "")
	f.Add("%%%RESP(A)%", "\x1b")
	f.Fuzz(func(t *testing.T, format, value string) {
		x := exchange()
		x.Path, x.Host, x.Flags, x.Detail = value, value, value, value
		x.RequestHeader = http.Header{"A": {value}, "User-Agent": {value}}
		line, err := Text(format)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			if _, err := JSON([]Field{{value, format}}); err == nil {
				t.Errorf("%q is a format in JSON and none in text", format)
			}
			return
		}
		if !strings.Contains(format, "\n") {
			if got := string(line.Append(nil, x)); strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n") {
				t.Errorf("%q makes more than a line of %q: %q", format, value, got)
			}
		}
		obj, err := JSON([]Field{{value, format}, {"a" + value, "%REQ(A)%"}})
		if err != nil {
			if strings.HasSuffix(format, "\n") {
				return
			}
			t.Fatalf("%q is a format in text and none in JSON: %v", format, err)
		}
		got := obj.Append(nil, x)
		var m map[string]any
		if err := json.Unmarshal(got, &m); err != nil {
			t.Fatalf("%q: %v: %s", format, err, got)
		}
		if !utf8.Valid(got) || strings.Count(string(got), "\n") != 1 {
			t.Fatalf("%q: %q", format, got)
		}
	})
}
