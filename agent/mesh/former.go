package mesh

import "time"

// former is an address that nobody has, and who had it last.
type former struct {
	at    NetworkAddress
	who   string
	until time.Time
}

// quarantine begins the quarantine of the addresses that d leaves without a
// workload, and ends those that are over. s.writing is held.
func (s *Store) quarantine(d *draft, now time.Time) {
	if s.Quarantine <= 0 {
		return
	}
	for len(s.leaving) > 0 && !now.Before(s.leaving[0].until) {
		over := s.leaving[0]
		// Another may have had the address meanwhile, and have left it.
		if f, ok := d.former.get(over.at); ok && f.until.Equal(over.until) {
			d.former.delete(d.edit, over.at)
		}
		s.leaving = s.leaving[1:]
	}
	for _, f := range d.left {
		if d.workloadAt(f.at) != nil {
			continue // it has another already
		}
		f.until = now.Add(s.Quarantine)
		d.former.set(d.edit, f.at, f)
		s.leaving = append(s.leaving, f)
	}
}
