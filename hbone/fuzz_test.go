package hbone

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/adit-mesh/adit/identity/identitytest"
)

func FuzzBaggage(f *testing.F) {
	f.Add("k8s.cluster.name=c,k8s.namespace.name=n,k8s.deployment.name=d,service.name=s,service.version=v1,cloud.region=r,cloud.availability_zone=z")
	f.Add("k8s.pod.name = a%20b%2C%22 ; property=1 ;x, ,=,==,service.name")
	f.Add("service.name=%zz,service.name=%")
	f.Fuzz(func(t *testing.T, s string) {
		out := ParseBaggage(s).String()
		if len(out) > maxBaggage {
			return // read in part
		}
		if again := ParseBaggage(out).String(); again != out {
			t.Errorf("%q formats as %q, and that as %q", s, out, again)
		}
		if strings.ContainsAny(out, " \"\\;\r\n\x00") {
			t.Errorf("%q formats as %q", s, out)
		}
	})
}

func FuzzForwarded(f *testing.F) {
	f.Add(`for="10.0.0.1:1234";host=svc.ns.svc.cluster.local`)
	f.Add(`For="[2001:db8::1]:4711";proto=https;HOST="a\"b;c", for=unknown`)
	f.Add(`for="[::ffff:1.2.3.4]:1`)
	f.Fuzz(func(t *testing.T, s string) {
		src, host := ParseForwarded(s)
		if strings.ContainsAny(host, "\\\";, \t=\r\n") || strings.ContainsAny(src.Addr().Zone(), "\\\"") || strings.TrimSpace(host) != host {
			return // nothing that has an address or a name
		}
		src2, host2 := ParseForwarded(FormatForwarded(src, host))
		if src2 != src || host2 != host {
			t.Errorf("%q is %v %q; formatted and read again %v %q", s, src, host, src2, host2)
		}
	})
}

func FuzzTraceID(f *testing.F) {
	f.Add(NewTraceparent())
	f.Add("00-00000000000000000000000000000000-0000000000000000-00")
	f.Add("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Fuzz(func(t *testing.T, s string) {
		id := TraceID(s)
		if id != "" && (len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" || strings.Trim(id, "0") == "" || !strings.HasPrefix(s, "00-"+id+"-")) {
			t.Errorf("%q has trace id %q", s, id)
		}
	})
}

// FuzzHeaderEncoder checks our encoder against a full HPACK decoder, over as
// many frames as a block takes.
func FuzzHeaderEncoder(f *testing.F) {
	f.Add("10.0.0.1:80", "baggage", "service.name=x", 200, 1)
	f.Add("[::1]:80", "x", "\x00\xff\x80", 503, 300)
	f.Add("", "", strings.Repeat("~", 200), 431, 40000)
	f.Fuzz(func(t *testing.T, authority, name, value string, status, times int) {
		if status < 100 || status > 999 || len(authority)+len(name)+len(value) > 1<<16 {
			return
		}
		value = strings.Repeat(value, 1+max(0, times)%(1+40000/(len(value)+1)))
		hs := []Header{{name, value}, {"second", authority}}
		for _, block := range [][]byte{
			appendConnect(nil, &Request{Authority: authority, Header: hs}),
			appendStatus(nil, status, hs),
		} {
			var joined []byte
			fr := http2.NewFramer(io.Discard, bytes.NewReader(appendHeaders(nil, 5, block, true)))
			for done := false; !done; {
				frame, err := fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				switch frame := frame.(type) {
				case *http2.HeadersFrame:
					if len(joined) > 0 || !frame.StreamEnded() {
						t.Fatalf("%v", frame)
					}
					joined, done = append(joined, frame.HeaderBlockFragment()...), frame.HeadersEnded()
				case *http2.ContinuationFrame:
					joined, done = append(joined, frame.HeaderBlockFragment()...), frame.HeadersEnded()
				}
			}
			fields, err := hpack.NewDecoder(4096, nil).DecodeFull(joined)
			if err != nil {
				t.Fatal(err)
			}
			var want []hpack.HeaderField
			if block[0] == hpackMethod {
				want = append(want, hpack.HeaderField{Name: ":method", Value: "CONNECT"}, hpack.HeaderField{Name: ":authority", Value: authority})
			} else {
				want = append(want, hpack.HeaderField{Name: ":status", Value: string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)})})
			}
			for _, h := range hs {
				want = append(want, hpack.HeaderField{Name: h.Name, Value: h.Value})
			}
			if len(fields) != len(want) {
				t.Fatalf("%d fields, want %d", len(fields), len(want))
			}
			for i := range want {
				if fields[i] != want[i] {
					t.Errorf("field %d is %v, want %v", i, fields[i], want[i])
				}
			}
		}
	})
}

// frames makes frames of a fuzzer's bytes: valid headers with anything in
// them, so that more than the first check is reached. Each takes a type, flags,
// a stream, and a length with payload; with the highest bit of the type set the
// payload is replaced by something sensible.
func frames(in []byte) (out []byte) {
	for len(in) >= 4 && len(out) < 1<<20 {
		typ, flags, id, n := in[0]&0x0f, in[1], uint32(in[2]&0x0f), int(in[3])
		sensible := in[0]&0x80 != 0
		in = in[4:]
		n = min(n, len(in))
		payload := in[:n]
		in = in[n:]
		if sensible {
			switch typ {
			case frameHeaders:
				payload = appendConnect(nil, &Request{Authority: []string{"echo:1", "sink:1", "hold:1", "refuse:1", "source:1"}[n%5]})
				if flags&0x40 != 0 {
					payload = appendStatus(nil, 200, nil)
				}
				flags = flags&flagEndStream | flagEndHeaders
			case frameData:
				payload = make([]byte, n*256)
				flags &= flagEndStream
			case frameSettings:
				payload, id, flags = binary.BigEndian.AppendUint32([]byte{0, byte(n % 7)}, uint32(n)<<(n%24)), 0, 0
			case frameWindowUpdate:
				payload = binary.BigEndian.AppendUint32(nil, uint32(n)<<(n%24))
			case frameRSTStream:
				payload = binary.BigEndian.AppendUint32(nil, uint32(n%16))
			case framePing:
				payload, id = make([]byte, 8), 0
			case frameGoAway:
				payload, id = binary.BigEndian.AppendUint64(nil, uint64(n)<<32|uint64(n%3)), 0
			}
		}
		out = appendFrameHeader(out, len(payload), typ, flags, id)
		out = append(out, payload...)
	}
	return out
}

func seedFrames(f *testing.F) {
	h, d := frameHeaders|0x80, frameData|0x80
	f.Add(true, []byte{frameSettings | 0x80, 0, 0, 0, h, 0, 1, 0, d, 1, 1, 0, frameGoAway | 0x80, 0, 0, 0})
	f.Add(true, []byte{frameSettings | 0x80, 0, 0, 0, h, 0x40, 1, 0, d, 0, 1, 0, d, 1, 1, 0, frameRSTStream | 0x80, 0, 1, 0})
	f.Add(true, []byte{frameSettings | 0x80, 0, 0, 4, h, 0, 1, 1, h, 0, 3, 4, frameWindowUpdate | 0x80, 0, 3, 20, framePing | 0x80, 0, 0, 0})
	f.Add(true, []byte{frameSettings, 0, 0, 0, frameHeaders, 0, 1, 1, 0x82, frameContinuation, 4, 1, 0})
	f.Add(false, append(appendSettings(nil), appendHeaders(nil, 1, appendConnect(nil, &Request{Authority: "echo:1"}), false)...))
	f.Add(false, append(appendSettings(nil), appendHeaders(nil, 1, appendStatus(nil, 200, nil), true)...))
	f.Add(false, []byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(false, appendGoAway(appendSettings(nil), 0, http2.ErrCodeNo, "bye"))
}

// FuzzServer feeds a server with anything after the client's preface. It must
// end its tunnel when the client does, and keep nothing.
func FuzzServer(f *testing.F) {
	mesh := identitytest.New(f, "cluster.local")
	client, server := mesh.ID("a", "client"), mesh.ID("b", "server")
	sc := ServerConfig{TLS: mesh.ServerTLS(server)}
	scripted(nil, nil, &sc)
	cfg := tunnelTLS(mesh.ClientTLS(client, server))
	seedFrames(f)
	f.Fuzz(func(t *testing.T, framed bool, in []byte) {
		if framed {
			in = frames(in)
		}
		l := newPipes()
		srv := NewServer(sc)
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		c, err := l.dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		tc := tls.Client(c, cfg)
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		tc.SetDeadline(time.Now().Add(10 * time.Second))
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(io.Discard, tc) })
		io.WriteString(tc, http2.ClientPreface)
		tc.Write(in)
		tc.CloseWrite()
		c.Close()
		wg.Wait()
		for deadline := time.Now().Add(10 * time.Second); len(srv.Stats()) > 0; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(deadline) {
				t.Fatal("the tunnel is still there 10 s after its peer has gone")
			}
		}
		srv.Close()
		<-served
		if left := windowBudget.left.Load(); left != fullBudget {
			t.Errorf("%d bytes of window are gone for good", fullBudget-left)
		}
	})
}
