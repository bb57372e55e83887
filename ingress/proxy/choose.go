package proxy

// choose returns the index of the backend that the n-th of total shares belongs
// to, n below the sum of all weights. Backends with weight zero have none.
func choose(backends []Backend, n uint64) int {
	for i := range backends {
		w := share(&backends[i])
		if n < w {
			return i
		}
		n -= w
	}
	return -1
}

// shares is the sum of the weights.
func shares(backends []Backend) uint64 {
	var sum uint64
	for i := range backends {
		sum += share(&backends[i])
	}
	return sum
}

func share(b *Backend) uint64 { return uint64(max(b.Weight, 0)) }
