package capture

import (
	"context"
	"errors"
	"slices"
	"strings"
)

// UseConntrackMarks makes the pod one where mode B is not to be had.
func (p *Pod) UseConntrackMarks(ctx context.Context) error {
	p.markAccept.Store(false)
	return p.sysctl.clear(p.netns, markSysctls)
}

// UsesMarkAccept tells whether the pod is in mode B.
func (p *Pod) UsesMarkAccept() bool { return p.markAccept.Load() }

// Unown makes the table as it is on kernels without ownership.
func (p *Pod) Unown() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.table.flags = 0
	return p.table.apply(ruleset(p.rules, p.stage))
}

// Owned tells whether the table is owned.
func (p *Pod) Owned() bool { return p.table.flags != 0 }

// Reapply replaces the table by the same.
func (p *Pod) Reapply() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table.apply(ruleset(p.rules, p.stage))
}

// Rewrite replaces the table in place, and only in place.
func (p *Pod) Rewrite() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	gen, err := p.table.nft.generation()
	if err != nil {
		return err
	}
	return p.table.rewrite(gen, ruleset(p.rules, p.stage))
}

// Unown makes the tables as they are on kernels without ownership.
func (h *Host) Unown() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.tables() {
		k.flags = 0
	}
	return errors.Join(h.inet.apply(h.want), h.bridge.apply(bridgeRuleset()))
}

// Owned tells whether the tables are owned.
func (h *Host) Owned() bool { return h.inet.flags != 0 }

// Verify is one round of Run.
func (h *Host) Verify() []Repair {
	r, _ := h.verify()
	return r
}

// AsWritten tells whether the tables are what writing them anew makes of them.
func (h *Host) AsWritten() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	inet, bridge := h.inet.sum, h.bridge.sum
	return h.inet.apply(h.want) == nil && h.inet.sum == inet && h.bridge.apply(bridgeRuleset()) == nil && h.bridge.sum == bridge
}

// DropSocketMatch loads the table with R2 as one would first write it.
func (p *Pod) DropSocketMatch() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := ruleset(p.rules, p.stage)
	r2 := &t.Chains[0].Rules[1]
	*r2 = slices.DeleteFunc(*r2, func(s statement) bool { return strings.HasPrefix(s.text, "socket mark") })
	return p.table.apply(t)
}

// Verify is one round of Run.
func (p *Pod) Verify() []Repair {
	r, _ := p.verify()
	return r
}

// Marked tells whether a port is served in mode A because its app did not answer in mode B.
func (p *Pod) Marked(port uint16) bool { return p.marked.has(port) }
