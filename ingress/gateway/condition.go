package gateway

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// condition is a condition that is wanted, without what depends on the object.
type condition struct {
	kind    string // metav1.Condition.Type
	status  metav1.ConditionStatus
	reason  string
	message string
}

// verdict is what a check comes to. The zero value is that all is well.
type verdict struct{ reason, message string }

func (v verdict) ok() bool { return v.reason == "" }

func is[K, R ~string](kind K, reason R, message string) condition {
	return condition{string(kind), metav1.ConditionTrue, string(reason), message}
}

func isNot[K ~string](kind K, why verdict) condition {
	return condition{string(kind), metav1.ConditionFalse, why.reason, why.message}
}

func because[R ~string](reason R, message string) verdict {
	return verdict{string(reason), message}
}

// maxMessage is what the definition of metav1.Condition allows.
const maxMessage = 32768

// conditions writes out what is wanted. A condition whose status is what it was
// in previous keeps its time: that is when it last changed, not when it was last
// looked at.
func conditions(previous []metav1.Condition, generation int64, now time.Time, wanted ...condition) []metav1.Condition {
	out := make([]metav1.Condition, 0, len(wanted))
	for _, w := range wanted {
		c := metav1.Condition{
			Type:               w.kind,
			Status:             w.status,
			ObservedGeneration: generation,
			// The API keeps whole seconds: more would differ from what is read back.
			LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
			Reason:             w.reason,
			Message:            w.message,
		}
		if len(c.Message) > maxMessage {
			c.Message = strings.ToValidUTF8(c.Message[:maxMessage], "")
		}
		if i := indexCondition(previous, w.kind); i >= 0 && previous[i].Status == w.status && !previous[i].LastTransitionTime.IsZero() {
			c.LastTransitionTime = previous[i].LastTransitionTime
		}
		out = append(out, c)
	}
	return out
}

func indexCondition(list []metav1.Condition, kind string) int {
	return slices.IndexFunc(list, func(c metav1.Condition) bool { return c.Type == kind })
}

// sentence joins what is to be said into one message.
func sentence(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}
