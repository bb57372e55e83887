package h2

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// script is a connection that gives what it has, takes all that is written, and is
// then over.
type script struct {
	in  *bytes.Reader
	out *io.PipeWriter
}

func (s *script) Read(p []byte) (int, error) {
	if s.in.Len() == 0 {
		return 0, io.EOF
	}
	return s.in.Read(p)
}
func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzFrames feeds a connection with frames of a stranger. Whatever they are, it
// ends, handlers see requests that HTTP/1.1 could carry, and what is written can be
// read.
func FuzzFrames(f *testing.F) {
	frames := func(make func(fr *http2.Framer, enc func(...string) []byte)) {
		var b, hb bytes.Buffer
		e := hpack.NewEncoder(&hb)
		fr := http2.NewFramer(&b, nil)
		fr.AllowIllegalWrites = true
		fr.WriteSettings()
		make(fr, func(kv ...string) []byte {
			hb.Reset()
			for i := 0; i+1 < len(kv); i += 2 {
				e.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
			}
			return bytes.Clone(hb.Bytes())
		})
		f.Add(b.Bytes())
	}
	frames(func(fr *http2.Framer, enc func(...string) []byte) {
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: enc(getRoot...), EndStream: true, EndHeaders: true})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: enc(postRoot...), EndHeaders: true, PadLength: 3})
		fr.WriteDataPadded(3, false, []byte("body"), []byte{0, 0})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: enc("x-trailer", "a"), EndStream: true, EndHeaders: true})
		fr.WritePing(false, [8]byte{1})
		fr.WriteGoAway(0, 0, nil)
	})
	frames(func(fr *http2.Framer, enc func(...string) []byte) {
		b := enc(with(getRoot, "cookie", "a", "cookie", "b", "content-length", "0")...)
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3], EndStream: true})
		fr.WriteContinuation(1, false, b[3:5])
		fr.WriteContinuation(1, true, b[5:])
		fr.WriteRSTStream(1, http2.ErrCodeCancel)
		fr.WritePriority(5, http2.PriorityParam{StreamDep: 1})
		fr.WriteWindowUpdate(0, 100)
	})
	frames(func(fr *http2.Framer, enc func(...string) []byte) {
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}, http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: enc(":method", "CONNECT",
			":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "x")})
		fr.WriteData(1, false, []byte("tunnel"))
		fr.WriteWindowUpdate(1, 10)
		fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100_000})
		fr.WriteRawFrame(frameType(framePriorityUpdate), 0, 0, []byte("\x00\x00\x00\x01u=1"))
		fr.WriteData(1, true, nil)
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, w := io.Pipe()
		s := &script{in: bytes.NewReader(append([]byte(http2.ClientPreface), b...)), out: w}
		var srv Server
		read := make(chan struct{})
		go func() {
			defer close(read)
			fr := http2.NewFramer(nil, r)
			fr.SetMaxReadFrameSize(maxFrame)
			fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			for {
				if _, err := fr.ReadFrame(); err != nil {
					if err != io.EOF {
						t.Errorf("what was written cannot be read: %v", err)
					}
					io.Copy(io.Discard, r)
					return
				}
			}
		}()
		srv.ServeConn(context.Background(), s, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sane(t, r)
			n, _ := io.Copy(w, r.Body)
			if r.ContentLength >= 0 && n > r.ContentLength {
				t.Errorf("%d bytes of body, content-length %d", n, r.ContentLength)
			}
		}))
		w.Close()
		<-read
		if n, g := srv.unread.Load(), srv.grown.Load(); n != 0 || g != 0 {
			t.Errorf("at the end %d bytes are held, and windows have grown by %d", n, g)
		}
	})
}

func frameType(t byte) http2.FrameType { return http2.FrameType(t) }

// sane checks that a request could be sent on as HTTP/1.1 as it is.
func sane(t *testing.T, r *http.Request) {
	bad := func(s string, ok func(c byte) bool) bool {
		for i := range len(s) {
			if !ok(s[i]) {
				return true
			}
		}
		return false
	}
	line := func(c byte) bool { return c > ' ' && c != 0x7f }
	if r.Method == "" || bad(r.Method, line) || bad(r.RequestURI, line) || bad(r.Host, line) || r.Host == "" || r.RequestURI == "" {
		t.Errorf("request line %q %q for %q", r.Method, r.RequestURI, r.Host)
	}
	for name, values := range r.Header {
		switch name {
		case "Connection", "Transfer-Encoding", "Upgrade", "Keep-Alive", "Proxy-Connection", "Host", "Trailer":
			t.Errorf("field %s", name)
		}
		if name == "" || bad(name, func(c byte) bool { return class[c]&isToken != 0 }) || name != http.CanonicalHeaderKey(name) {
			t.Errorf("field name %q", name)
		}
		for _, v := range values {
			if bad(v, func(c byte) bool { return c == '\t' || c >= ' ' && c != 0x7f }) {
				t.Errorf("value %q of %s", v, name)
			}
		}
	}
	if v := r.Header["Content-Length"]; len(v) > 1 {
		t.Errorf("content-length %q", v)
	}
}

// FuzzBlock compares the decoding of a block with what the fields say.
func FuzzBlock(f *testing.F) {
	var hb bytes.Buffer
	e := hpack.NewEncoder(&hb)
	for i := 0; i < len(postRoot); i += 2 {
		e.WriteField(hpack.HeaderField{Name: postRoot[i], Value: postRoot[i+1]})
	}
	f.Add(hb.Bytes(), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		var one, two blockReader
		one.init(4096, 50)
		two.init(4096, 50)
		one.begin(1, true)
		two.begin(1, true)
		err1 := one.fragment(b, true)
		at := int(cut) % (len(b) + 1)
		err2 := two.fragment(b[:at], false)
		if err2 == nil {
			err2 = two.fragment(b[at:], true)
		}
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("in one piece %v, in two %v", err1, err2)
		}
		if err1 != nil {
			return
		}
		var r1, r2 http.Request
		one.b.done()
		two.b.done()
		bad1, bad2 := one.b.request(1000, &r1, new(url.URL)), two.b.request(1000, &r2, new(url.URL))
		if (bad1 == nil) != (bad2 == nil) {
			t.Fatalf("in one piece %v, in two %v", bad1, bad2)
		}
		if bad1 == nil {
			sane(t, &r1)
			if r1.RequestURI != r2.RequestURI || len(r1.Header) != len(r2.Header) {
				t.Fatalf("in one piece %v, in two %v", r1, r2)
			}
		}
	})
}
