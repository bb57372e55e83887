package mesh

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestAddressOfWhoIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewStore()
		s.Quarantine = time.Minute
		client := pod("client", "10.0.0.1")
		apply := func(u Update) {
			t.Helper()
			if err := s.Apply(u); err != nil {
				t.Fatal(err)
			}
		}
		want := func(why, dst, want string) {
			t.Helper()
			if got := describe(s.Outbound(client, addrPort(dst))); got != want {
				t.Errorf("%s: %s, want %s", why, got, want)
			}
		}
		const (
			to      = "10.0.0.2:80"
			pass    = "passthrough | TCP 10.0.0.2:80"
			gone    = " was the address of default/a (uid Kubernetes//Pod/default/a), which is gone; whose it is now is not known, and plaintext is not sent there"
			refused = "refuse: 10.0.0.2" + gone
		)
		a := pod("a", "10.0.0.2", also("fd00::2"))
		want("nobody has had it", to, pass)
		apply(Update{Workloads: []*Workload{a, pod("plain", "10.0.0.3", plainTCP)}})
		apply(Update{RemovedWorkloads: []string{a.UID, "Kubernetes//Pod/default/plain"}})
		want("it was in the mesh", to, refused)
		want("its other address too", "[fd00::2]:80", "refuse: fd00::2"+gone)
		want("one that took plaintext leaves nothing", "10.0.0.3:80", "passthrough | TCP 10.0.0.3:80")

		apply(Update{Workloads: []*Workload{pod("b", "10.0.0.2", plainTCP)}})
		want("another has it", to, "mesh | TCP 10.0.0.2:80 = b")
		apply(Update{RemovedWorkloads: []string{"Kubernetes//Pod/default/b"}})
		want("and has left it, who took plaintext", to, pass)

		apply(Update{Workloads: []*Workload{a}})
		time.Sleep(30 * time.Second)
		apply(Update{Workloads: []*Workload{pod("a", "10.0.0.4")}})
		want("it has another address now", to, refused)
		time.Sleep(s.Quarantine)
		want("the quarantine is over", to, pass)
		apply(Update{Workloads: []*Workload{pod("c", "10.0.0.5")}})
		if n := len(s.leaving); n > 0 {
			t.Errorf("%d addresses are remembered after their quarantine", n)
		}
		for at := range s.current.Load().former.all() {
			t.Errorf("%s is remembered after its quarantine", at.Addr)
		}
	})
}

func TestNoQuarantineUnlessAskedFor(t *testing.T) {
	s := store(t, pod("a", "10.0.0.2"))
	if err := s.Apply(Update{RemovedWorkloads: []string{pod("a", "10.0.0.2").UID}}); err != nil {
		t.Fatal(err)
	}
	const want = "passthrough | TCP 10.0.0.2:80"
	if got := describe(s.Outbound(pod("client", "10.0.0.1"), addrPort("10.0.0.2:80"))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
