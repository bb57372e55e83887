package file

import (
	"log/slog"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/adit-mesh/adit/ingress/gateway"
)

// publish keeps the statuses, as an API server would in the objects, and says
// what turned bad.
func (s *Source) publish(statuses []gateway.Status) {
	all := make(map[key]runtime.Object, len(statuses))
	for _, st := range statuses {
		k := key{st.Kind, st.Namespace, st.Name}
		e := s.table.entries[k]
		if e == nil {
			continue
		}
		if merged, differs := st.Merge(e.object); differs {
			o := merged.(object)
			s.say(k, gateway.Conditions(e.object), gateway.Conditions(o))
			e.object = o
			// It has the times of the conditions, which the next status keeps.
			s.translator.Set(o)
		}
		all[k] = e.object
	}
	s.mu.Lock()
	s.statuses = all
	s.mu.Unlock()
}

// say logs a line for each condition that is bad, and was not so before, and one
// when all are good again.
func (s *Source) say(k key, before, now []gateway.Located) {
	wasBad := slices.ContainsFunc(before, gateway.Located.Bad)
	for _, c := range now {
		if c.Bad() && !slices.ContainsFunc(before, c.Says) {
			attrs := []any{"object", k.String(), "condition", c.Type, "status", string(c.Status), "reason", c.Reason}
			if c.Of != "" {
				attrs = append(attrs, "of", c.Of)
			}
			s.log.Warn(c.Message, attrs...)
		}
	}
	if !slices.ContainsFunc(now, gateway.Located.Bad) {
		level := slog.LevelDebug
		if wasBad {
			level = slog.LevelInfo
		}
		s.log.Log(background, level, "the conditions are good", "object", k.String())
	}
}

// keepStatus gives an object the status of the version before it.
func keepStatus(old, now object) {
	if reflect.TypeOf(old) != reflect.TypeOf(now) {
		return
	}
	from := reflect.ValueOf(old).Elem().FieldByName("Status")
	if to := reflect.ValueOf(now).Elem().FieldByName("Status"); to.IsValid() && to.CanSet() {
		to.Set(from)
	}
}
