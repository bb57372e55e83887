package h2

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
)

// TestExtendedConnect checks RFC 8441: that it is announced, how the handler sees it,
// and that both directions end each on its own.
func TestExtendedConnect(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "CONNECT" || r.Proto != "websocket" || r.ProtoMajor != 2 || r.URL.Path != "/chat" ||
			r.URL.RawQuery != "a=b" || r.Host != "example.com" || r.Header.Get("Sec-Websocket-Version") != "13" || r.RequestURI != "/chat?a=b" {
			t.Errorf("the handler saw %s %s %s %s %v", r.Method, r.Proto, r.URL, r.Host, r.Header)
		}
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		b := make([]byte, 100)
		n, _ := r.Body.Read(b)
		w.Write(b[:n])
		w.(http.Flusher).Flush()
		if err := w.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
		rest, err := io.ReadAll(r.Body) // the client goes on after our end
		if string(rest) != "more" || err != nil {
			t.Errorf("after our end came %q, %v", rest, err)
		}
	})
	p := dial(t, addr)
	id := p.open(false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/chat?a=b",
		":authority", "example.com", "sec-websocket-version", "13")
	p.wantStatus(id, "200")
	p.f.WriteData(id, false, []byte("ping"))
	if b, _ := p.wantEnd(id); string(b) != "ping" {
		t.Errorf("came back %q", b)
	}
	p.f.WriteData(id, true, []byte("more"))
	p.ping()
}

// TestConnectAnnounced checks the setting that browsers look for.
func TestConnectAnnounced(t *testing.T) {
	c, err := net.Dial("tcp", plain(t, &Server{}, nil))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.WriteSettings()
	fr, err := f.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	st := fr.(*http2.SettingsFrame)
	if v, ok := st.Value(http2.SettingEnableConnectProtocol); !ok || v != 1 {
		t.Errorf("SETTINGS are %v", st)
	}
	if v, ok := st.Value(http2.SettingMaxConcurrentStreams); !ok || v != 250 {
		t.Errorf("SETTINGS are %v", st)
	}
}

// streamConn is a stream of a peer.
type streamConn struct {
	p  *peer
	id uint32
	in bytes.Buffer
}

func (s *streamConn) Read(b []byte) (int, error) {
	for s.in.Len() == 0 {
		d := s.p.want("DATA", func(f http2.Frame) bool { _, ok := f.(*http2.DataFrame); return ok }).(*http2.DataFrame)
		s.in.Write(d.Data())
		if d.StreamEnded() && s.in.Len() == 0 {
			return 0, io.EOF
		}
	}
	return s.in.Read(b)
}

func (s *streamConn) Write(b []byte) (int, error) {
	return len(b), s.p.f.WriteData(s.id, false, b)
}

// TestWebSocket speaks the protocol of RFC 6455 in a stream.
func TestWebSocket(t *testing.T) {
	addr := secure(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		rc := http.NewResponseController(w)
		b := make([]byte, 4096)
		for {
			n, err := r.Body.Read(b)
			if err != nil {
				return
			}
			// The server's frames are not masked: an echo of the client's is enough
			// to show that bytes pass unchanged, if it is unmasked.
			frame := b[:n]
			if n >= 6 && frame[1]&0x80 != 0 && int(frame[1]&0x7f) == n-6 {
				mask, payload := frame[2:6], frame[6:]
				for i := range payload {
					payload[i] ^= mask[i%4]
				}
				w.Write(append([]byte{frame[0], frame[1] &^ 0x80}, payload...))
				rc.Flush()
			}
		}
	})
	c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	p := greet(t, c)
	id := p.open(false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/",
		":authority", "example.com", "sec-websocket-version", "13")
	p.wantStatus(id, "200")
	sc := &streamConn{p: p, id: id}
	if err := wsWrite(sc, "hello"); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(sc, head); err != nil || head[0] != 0x80|textMessage || head[1] != 5 {
		t.Fatalf("the frame begins with %x, %v", head, err)
	}
	text := make([]byte, 5)
	if _, err := io.ReadFull(sc, text); err != nil || string(text) != "hello" {
		t.Errorf("echoed %q, %v", text, err)
	}
}

const textMessage = 1 // opcode, RFC 6455 section 5.2

// wsWrite sends a text message as a client does: masked.
func wsWrite(w io.Writer, text string) error {
	mask := []byte{1, 2, 3, 4}
	b := append([]byte{0x80 | textMessage, 0x80 | byte(len(text))}, mask...)
	for i := range len(text) {
		b = append(b, text[i]^mask[i%4])
	}
	_, err := w.Write(b)
	return err
}
