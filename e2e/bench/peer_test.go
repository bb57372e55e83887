package bench

import "testing"

func TestParsePeer(t *testing.T) {
	for _, s := range []string{
		"", "envoy", "envoy=", "=envoy {listen} {forward}", "envoy=envoy {listen}", "envoy=envoy {forward}",
		"tls=envoy {listen} {forward}", "a b=envoy {listen} {forward}",
	} {
		if p, err := ParsePeer(s); err == nil {
			t.Errorf("ParsePeer(%q) = %+v, want an error", s, p)
		}
	}
	p, err := ParsePeer("socat=socat TCP-LISTEN:{listen.port},bind={listen.host} TCP:{forward} # via {tunnel}=")
	if err != nil {
		t.Fatal(err)
	}
	got := p.fill("127.0.0.2:1", "127.0.0.4:2", "127.0.0.3:3")
	if want := "socat TCP-LISTEN:1,bind=127.0.0.2 TCP:127.0.0.4:2 # via 127.0.0.3:3="; got != want {
		t.Errorf("filled command is %q, want %q", got, want)
	}
}
