package main

import "testing"

func TestGCPercent(t *testing.T) {
	const mib = 1 << 20
	for _, tc := range []struct {
		live, roots uint64
		want        int
		why         string
	}{
		{4 * mib, 0, 700, "from 4 MiB to 32 is 700 % more"},
		{4 * mib, 4 * mib, 350, "stacks and globals count as live ones do"},
		{30 * mib, 0, 100, "never below Go's default"},
		{300 * mib, 10 * mib, 100, "a large heap is collected as usual"},
		{0, 0, 1600, "nothing is known before the first collection"},
	} {
		if got := gcPercent(tc.live, tc.roots); got != tc.want {
			t.Errorf("gcPercent(%d, %d) = %d, want %d: %s", tc.live, tc.roots, got, tc.want, tc.why)
		}
	}
}
