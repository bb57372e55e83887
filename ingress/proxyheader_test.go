package ingress

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"
)

func TestReadProxyHeader(t *testing.T) {
	v2 := func(h proxyproto.Header) string {
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	client, gateway := netip.MustParseAddrPort("192.0.2.7:4711"), netip.MustParseAddrPort("198.51.100.1:443")
	client6, gateway6 := netip.MustParseAddrPort("[2001:db8::7]:4711"), netip.MustParseAddrPort("[2001:db8::1]:443")
	tcp := func(a netip.AddrPort) net.Addr { return net.TCPAddrFromAddrPort(a) }
	for _, c := range []struct {
		why, header   string
		remote, local netip.AddrPort
		bad           bool
	}{
		{"version 1", "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", client, gateway, false},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", client6, gateway6, false},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", netip.AddrPort{}, netip.AddrPort{}, false},
		{"version 2", v2(proxyproto.Header{Version: 2, Command: proxyproto.PROXY, TransportProtocol: proxyproto.TCPv4, SourceAddr: tcp(client), DestinationAddr: tcp(gateway)}), client, gateway, false},
		{"version 2, of the balancer itself", v2(proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}), netip.AddrPort{}, netip.AddrPort{}, false},
		{"a request without a header", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", netip.AddrPort{}, netip.AddrPort{}, true},
		{"addresses of two families", "PROXY TCP4 192.0.2.7 2001:db8::1 4711 443\r\n", netip.AddrPort{}, netip.AddrPort{}, true},
		{"a port that is none", "PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n", netip.AddrPort{}, netip.AddrPort{}, true},
		{"a line that does not end", "PROXY TCP4 " + strings.Repeat("1", 200), netip.AddrPort{}, netip.AddrPort{}, true},
	} {
		t.Run(c.why, func(t *testing.T) {
			const rest = "\x16\x03\x01 what comes after"
			r := bufio.NewReaderSize(strings.NewReader(c.header+rest), 512)
			remote, local, err := readProxyHeader(r)
			if (err != nil) != c.bad {
				t.Fatalf("error is %v; want one: %t", err, c.bad)
			}
			if c.bad {
				return
			}
			if remote != c.remote || local != c.local {
				t.Errorf("from %s to %s; want from %s to %s", remote, local, c.remote, c.local)
			}
			if left, _ := io.ReadAll(r); string(left) != rest {
				t.Errorf("%q is left to be read; want %q", left, rest)
			}
		})
	}
}

// FuzzProxyHeader: whatever a balancer sends, addresses are whole or none, and
// version 1 takes its one line and no byte more.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET"))
	f.Add([]byte("PROXY UNKNOWN ffff::1 x\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x12\x67\x01\xbb"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x31\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(b), 512)
		remote, local, err := readProxyHeader(r)
		if err != nil {
			return
		}
		if remote.IsValid() != local.IsValid() {
			t.Errorf("%q is from %s to %s", b, remote, local)
		}
		if remote.Addr().Is4In6() || remote.Addr().Zone() != "" {
			t.Errorf("%q names the client %s, which no list of addresses has in this form", b, remote)
		}
		if !bytes.HasPrefix(b, []byte("PROXY")) {
			return
		}
		left, _ := io.ReadAll(r)
		if end := bytes.Index(b, []byte("\r\n")); end < 0 || string(left) != string(b[end+2:]) {
			t.Errorf("%q leaves %q", b, left)
		}
	})
}
