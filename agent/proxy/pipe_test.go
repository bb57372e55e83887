package proxy

// unused is how many pipes the pool holds.
func (pp *pipePool) unused() int {
	pp.mu.Lock()
	defer pp.mu.Unlock()
	return len(pp.free)
}
