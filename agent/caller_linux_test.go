package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/adit-mesh/adit/e2e/lab/labtest"
)

// TestCaller: root and the agent's user may use the admin port, others of the
// machine may not, over either family.
func TestCaller(t *testing.T) {
	labtest.Require(t)
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(localOnly(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "welcome") })))
		s.Listener.Close()
		s.Listener, s.Config.ConnContext = l, withCaller
		s.Start()
		for _, uid := range []int{0, 65534} {
			status, body := askAs(t, uid, l.Addr().(*net.TCPAddr).Port, listen)
			if want := uid == os.Geteuid(); (status == http.StatusOK) != want {
				t.Errorf("%s: user %d got %d %q", listen, uid, status, body)
			} else if !want && !strings.Contains(body, "user 65534 may not") {
				t.Errorf("%s: user %d is told %q", listen, uid, body)
			}
		}
		s.Close()
	}
}

// askAs makes a request over a socket that is a user's.
func askAs(t *testing.T, uid, port int, listen string) (int, string) {
	t.Helper()
	host := "127.0.0.1"
	if strings.HasPrefix(listen, "[::1]") {
		host = "[::1]"
	}
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = syscall.Fchown(int(fd), uid, -1) }); e != nil {
			return e
		}
		return err
	}}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, addr)
	}}}
	resp, err := client.Get(fmt.Sprintf("http://%s:%d/", host, port))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}
