package inspect

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/adit-mesh/adit/agent/mesh"
)

// service is the service that n names, nil if there is none.
func (f finder) service(n name) *mesh.Service {
	for _, svc := range f.Services {
		if svc.Namespace == n.namespace && (svc.Name == n.name || svc.Hostname == n.name) {
			return svc
		}
	}
	return nil
}

// pod is the workload that n names, nil if there is none. The name of a
// Deployment or the like stands for the first of its pods, and notes say so.
func (f finder) pod(n name) (w *mesh.Workload, notes []string) {
	var owned []*mesh.Workload
	for _, w := range f.Workloads {
		if w.Namespace != n.namespace {
			continue
		}
		if w.Name == n.name {
			return w, nil
		}
		if w.WorkloadName == n.name {
			owned = append(owned, w)
		}
	}
	if len(owned) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(owned, func(a, b *mesh.Workload) int { return cmp.Compare(a.Status, b.Status) }) // healthy first
	return owned[0], []string{fmt.Sprintf("%s/%s is no pod; this is the first of its %d: %s", n.namespace, n.name, len(owned), nameOf(owned[0]))}
}

const maxCandidates = 5

// podsCalled are pods of any namespace with a name like the one given.
func (f finder) podsCalled(text string) []string { return f.near(name{"", "", text}, kindPod) }

// near are the names most like n, of pods, of services, or of both. An unknown
// namespace does not count.
func (f finder) near(n name, kind string) []string {
	type scored struct {
		name string
		far  int
	}
	var found []scored
	consider := func(namespace, object string) {
		far, ok := distance(n.name, object)
		if !ok {
			return
		}
		if n.namespace != namespace {
			if _, close := distance(n.namespace, namespace); !close && n.namespace != "" && far > 0 {
				return
			}
			far += 100
		}
		found = append(found, scored{namespace + "/" + object, far})
	}
	if kind != kindPod {
		for _, svc := range f.Services {
			consider(svc.Namespace, svc.Name)
		}
	}
	if kind != kindService {
		for _, w := range f.Workloads {
			consider(w.Namespace, w.Name)
		}
	}
	slices.SortFunc(found, func(a, b scored) int { return cmp.Or(cmp.Compare(a.far, b.far), cmp.Compare(a.name, b.name)) })
	var names []string
	for _, s := range found {
		if len(names) < maxCandidates && !slices.Contains(names, s.name) {
			names = append(names, s.name)
		}
	}
	return names
}

// distance says how far a word is from a name, if they are alike at all: the
// same, the beginning of one another as the name of a Deployment is of its
// pods', or a slip of the finger apart.
func distance(word, name string) (far int, alike bool) {
	word, name = strings.ToLower(word), strings.ToLower(name)
	switch {
	case word == name:
		return 0, true
	case word == "" || name == "":
		return 0, false
	case strings.HasPrefix(name, word), strings.HasPrefix(word, name):
		return 1, true
	case strings.Contains(name, word):
		return 2, true
	}
	edits := editDistance(word, name)
	return 3 + edits, edits <= min(3, min(len(word), len(name))/2)
}

// editDistance is that of Levenshtein: insertions, deletions and changes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
