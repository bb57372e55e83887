package upstream

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
)

// picked counts how often each endpoint is chosen.
func picked(t *testing.T, c *Cluster, n int, want Pick) map[Endpoint]int {
	t.Helper()
	count := make(map[Endpoint]int)
	for range n {
		h, err := c.Pick(want)
		if err != nil {
			t.Fatal(err)
		}
		count[h.Endpoint()]++
	}
	return count
}

func placed(n int, zone, node string) Endpoint {
	e := endpointN(n)
	e.Zone, e.Node = zone, node
	return e
}

func TestPickNearestThatIsWell(t *testing.T) {
	near, sameZone, far := placed(1, "z1", "n1"), placed(2, "z1", "n2"), placed(3, "z2", "n3")
	all := []Endpoint{far, near, sameZone}
	fail := errors.New("refused")
	for _, tt := range []struct {
		why      string
		locality Locality
		eps      []Endpoint
		down     []Endpoint
		want     []Endpoint
	}{
		{"no preference: all", Anywhere, all, nil, all},
		{"same zone", SameZone, all, nil, []Endpoint{near, sameZone}},
		{"same node", SameNode, all, nil, []Endpoint{near}},
		{"same node is down: same zone", SameNode, all, []Endpoint{near}, []Endpoint{sameZone}},
		{"zone is down: elsewhere", SameZone, all, []Endpoint{near, sameZone}, []Endpoint{far}},
		{"all are down: never none", SameZone, all, all, all},
		{"nobody is near", SameNode, []Endpoint{far}, nil, []Endpoint{far}},
		{"one of many is down", Anywhere, all, []Endpoint{far}, []Endpoint{near, sameZone}},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s := newSet(t, SetConfig{Zone: "z1", Node: "n1"})
			c := one(t, s, Config{Locality: tt.locality, Endpoints: tt.eps})
			for _, h := range c.members.Load().hosts {
				if slices.Contains(tt.down, h.Endpoint()) {
					h.peer.health.failed(fail, sinceEpoch()+int64(backoffLast))
				}
			}
			got := picked(t, c, 300, Pick{})
			for _, e := range tt.eps {
				if (got[e] > 0) != slices.Contains(tt.want, e) {
					t.Errorf("%v was chosen %d times", e.Addr, got[e])
				}
			}
		})
	}
}

func TestPickSharesEvenly(t *testing.T) {
	s := newSet(t, SetConfig{})
	var eps []Endpoint
	for i := range 10 {
		eps = append(eps, endpointN(i))
	}
	c := one(t, s, Config{Endpoints: eps})
	check := func(got map[Endpoint]int, of []Endpoint, n int) {
		t.Helper()
		want := float64(n) / float64(len(of))
		for _, e := range of {
			if math.Abs(float64(got[e])-want) > want/3 {
				t.Errorf("%v was chosen %d times, want about %.0f", e.Addr, got[e], want)
			}
		}
	}
	check(picked(t, c, 10000, Pick{}), eps, 10000)
	// The neighbour of one that is left out gets no more than the others.
	c.members.Load().hosts[4].peer.health.failed(errors.New("refused"), sinceEpoch()+int64(backoffLast))
	rest := slices.Delete(slices.Clone(eps), 4, 5)
	check(picked(t, c, 9000, Pick{}), rest, 9000)
}

func TestPickLeastBusy(t *testing.T) {
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{endpointN(1), endpointN(2)}})
	hosts := c.members.Load().hosts
	release := hosts[0].Hold()
	if got := picked(t, c, 100, Pick{}); got[endpointN(2)] != 100 {
		t.Errorf("with one stream on the other of two, the idle one was chosen %d of 100 times", got[endpointN(2)])
	}
	release()
	if got := picked(t, c, 300, Pick{}); got[endpointN(1)] == 0 || got[endpointN(2)] == 0 {
		t.Errorf("both idle: chosen %v, want both", got)
	}
}

func TestPickAvoids(t *testing.T) {
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{endpointN(1), endpointN(2), endpointN(3)}})
	hosts := c.members.Load().hosts
	if got := picked(t, c, 100, Pick{Avoid: hosts[:2]}); got[endpointN(3)] != 100 {
		t.Errorf("with two tried before, chosen %v, want the third", got)
	}
	if got := picked(t, c, 100, Pick{Avoid: hosts}); len(got) == 0 {
		t.Error("with all tried before, want any")
	}
	hosts[2].peer.health.failed(errors.New("refused"), sinceEpoch()+int64(backoffLast))
	if got := picked(t, c, 100, Pick{Avoid: hosts[:2]}); got[endpointN(3)] != 0 {
		t.Errorf("the one not tried does not accept connections: chosen %v, want those that do", got)
	}
}

func TestPickSticks(t *testing.T) {
	s := newSet(t, SetConfig{IDKey: []byte("secret")})
	c := one(t, s, Config{Endpoints: []Endpoint{endpointN(1), endpointN(2), endpointN(3)}})
	h := c.members.Load().hosts[1]
	if got := picked(t, c, 50, Pick{Prefer: h.ID()}); got[h.Endpoint()] != 50 {
		t.Errorf("the session's endpoint was chosen %d of 50 times", got[h.Endpoint()])
	}
	// Another Set, as that of another replica, agrees; one with another key does not.
	same := one(t, newSet(t, SetConfig{IDKey: []byte("secret")}), Config{Endpoints: []Endpoint{h.Endpoint()}})
	if got := same.members.Load().hosts[0].ID(); got != h.ID() {
		t.Errorf("two Sets with one key have ids %q and %q of one endpoint", got, h.ID())
	}
	other := one(t, newSet(t, SetConfig{IDKey: []byte("other")}), Config{Endpoints: []Endpoint{h.Endpoint()}})
	if got := other.members.Load().hosts[0].ID(); got == h.ID() {
		t.Error("the id does not depend on the key")
	}
	if got := picked(t, c, 50, Pick{Prefer: h.ID(), Avoid: []*Host{h}}); got[h.Endpoint()] != 0 {
		t.Error("the session's endpoint was chosen although it is to be avoided")
	}
	h.peer.health.failed(errors.New("refused"), sinceEpoch()+int64(backoffLast))
	if got := picked(t, c, 50, Pick{Prefer: h.ID()}); got[h.Endpoint()] != 0 {
		t.Error("the session's endpoint was chosen although it accepts no connections")
	}
	if got := picked(t, c, 50, Pick{Prefer: "nobody"}); len(got) == 0 {
		t.Error("an id that nobody has must not be an error")
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Endpoints: []Endpoint{endpointN(1), endpointN(2), endpointN(3)}})
	if n := testing.AllocsPerRun(100, func() { c.Pick(Pick{}) }); n != 0 {
		t.Errorf("Pick allocates %v times", n)
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 3, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newSet(b, SetConfig{})
			var eps []Endpoint
			for i := range n {
				eps = append(eps, endpointN(i))
			}
			c := one(b, s, Config{Endpoints: eps})
			for b.Loop() {
				c.Pick(Pick{})
			}
		})
	}
}
