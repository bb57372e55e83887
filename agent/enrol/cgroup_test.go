package enrol

import (
	"slices"
	"strings"
	"testing"
)

func TestPodUIDs(t *testing.T) {
	const uid = "0b9c7ab4-9c1d-4ad0-9df1-6f1c2a0b5a55"
	under := strings.ReplaceAll(uid, "-", "_")
	for _, test := range []struct {
		name, file string
		want       []string
	}{
		{"v1, cgroupfs", "12:pids:/kubepods/burstable/pod" + uid + "/c0ffee\n1:name=systemd:/\n", []string{uid}},
		{"v1, each hierarchy", "2:cpu,cpuacct:/kn1/kubepods/pod" + uid + "/a\n1:pids:/kn1/kubepods/pod" + uid + "/a\n", []string{uid, uid}},
		{"v2, cgroupfs", "0::/kubepods/besteffort/pod" + uid + "/c0ffee\n", []string{uid}},
		{"v2, systemd", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + under + ".slice/cri-containerd-c0ffee.scope\n", []string{uid}},
		{"v2, systemd, guaranteed", "0::/kubepods.slice/kubepods-pod" + under + ".slice/crio-c0ffee.scope\n", []string{uid}},
		{"v2, from a cgroup namespace", "0::/../../kubepods-besteffort-pod" + under + ".slice/cri-containerd-c0ffee.scope\n", []string{uid}},
		{"cgroup driver of kubelet, not of containerd", "0::/system.slice/containerd.service/kubepods-pod" + under + ".slice:cri-containerd:c0ffee\n", []string{uid}},
		{"static pod", "0::/kubepods/burstable/pod3c7e8f2a9d5b4c6e8f1a2b3c4d5e6f70/c0ffee\n", []string{"3c7e8f2a9d5b4c6e8f1a2b3c4d5e6f70"}},
		{"a node in a pod", "0::/kubepods/podouter/c1/kubelet/kubepods/podinner/c2\n", []string{"outer", "inner"}},
		{"no pod", "0::/system.slice/podman.service\n1:pids:/\n", []string{"man.service"}}, // nobody's UID
		{"slice without pod", "0::/kubepods.slice/kubepods-burstable.slice\n", nil},
		{"nothing", "\n0::\n:::\n0:\nkubepods/pod1", nil},
		{"empty names", "0::/pod/x-pod.slice/\n", nil},
	} {
		if got := slices.Collect(podUIDs([]byte(test.file))); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q; want %q", test.name, got, test.want)
		}
	}
}

func TestStartTime(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	for _, test := range []struct {
		stat string
		want ticks
		ok   bool
	}{
		{"17 (sleep)" + rest, 4711, true},
		{"17 (a) b (c)" + rest, 4711, true},
		{"17 (a) R 1 2 3", 0, false},
		{"17 sleep", 0, false},
		{"", 0, false},
		{"17 (sleep) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 -1", 0, false},
	} {
		if got, err := startTime([]byte(test.stat)); got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: %d, %v; want %d", test.stat, got, err, test.want)
		}
	}
}

func FuzzCgroup(f *testing.F) {
	f.Add([]byte("0::/kubepods.slice/kubepods-pod1_2.slice/x.scope\n1:cpu:/kubepods/pod1-2/x\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		for uid := range podUIDs(file) {
			if uid == "" || strings.ContainsAny(uid, "/:") {
				t.Fatalf("uid %q of %q", uid, file)
			}
		}
	})
}

func FuzzStat(f *testing.F) {
	f.Add([]byte("17 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"))
	f.Fuzz(func(_ *testing.T, file []byte) { _, _ = startTime(file) })
}
