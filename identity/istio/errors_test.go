package istio

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func TestDenialBecomesLasting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d denials
		step := func(why string, pause time.Duration, want bool) {
			t.Helper()
			time.Sleep(pause)
			if got := d.lasting(web, time.Now()); got != want {
				t.Errorf("%s: lasting %v, want %v", why, got, want)
			}
		}
		step("the server may not have seen the pod yet", 0, false)
		step("nor half a minute later", patience-time.Second, false)
		step("but then it means it", time.Second, true)
		step("and goes on to", 150*time.Second, true)
		d.forget(web)
		step("it was issued in between", 0, false)
		step("nobody asked for a while", amnesty, false)
	})
}

func TestDenialsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d denials
		for i := range 1000 {
			d.lasting(spiffeid.RequireFromPath(domain, fmt.Sprintf("/ns/default/sa/pod-%d", i)), time.Now())
			time.Sleep(time.Minute)
		}
		if n := len(d.of); n > 10 {
			t.Errorf("%d identities remembered of which none is asked for any more", n)
		}
	})
}
