package meshlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
)

// Total is what testapp's client and stream count. Times are milliseconds.
type Total struct {
	OK, Failed int
	Errors     map[string]int // by message
	Servers    map[string]int // by host name: who answered
	Peers      map[string]int // by address: whom servers took us for
	Longest    int64          // without a success
	Last       string         // the last error
	Done       bool
}

func (t Total) String() string {
	return fmt.Sprintf("%d ok, %d failed %v, longest gap %d ms, servers %v, peers %v", t.OK, t.Failed, t.Errors, t.Longest, t.Servers, t.Peers)
}

// LoadRun is a pod that makes traffic.
type LoadRun struct {
	Pod *Pod
}

// Load starts a pod that runs testapp in a mode, client or stream, against a
// target, with further flags if from has Args. It returns once something has
// come back.
func Load(t *testing.T, ns string, from PodSpec, mode, target string) *LoadRun {
	t.Helper()
	from.Args = append([]string{mode, target}, from.Args...)
	l := &LoadRun{Pod: Start(t, ns, from)}
	Eventually(t, fmt.Sprintf("%s %s from %s succeeds", mode, target, l.Pod.Ref()), func() error {
		now, err := l.total(t.Context())
		if err == nil && now.OK == 0 {
			err = fmt.Errorf("%s; last error: %s", now, now.Last)
		}
		return err
	})
	return l
}

// Now is the total so far; it is at most a second or so old.
func (l *LoadRun) Now(t *testing.T) Total {
	t.Helper()
	now, err := l.total(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// Progress waits until so many more have succeeded than now.
func (l *LoadRun) Progress(t *testing.T, more int) {
	t.Helper()
	before := l.Now(t)
	Eventually(t, fmt.Sprintf("%d more successes of %s", more, l.Pod.Ref()), func() error {
		now, err := l.total(t.Context())
		if err == nil && now.OK < before.OK+more {
			err = fmt.Errorf("from %s to %s; last error: %s", before, now, now.Last)
		}
		return err
	})
}

// Stop ends the traffic in order and returns the total.
func (l *LoadRun) Stop(t *testing.T) Total {
	t.Helper()
	node := current.Node(l.Pod.Node)
	if _, err := node.Exec(t.Context(), "/usr/bin/ctr", "-n", "k8s.io", "tasks", "kill", "-s", "SIGTERM", l.Pod.container); err != nil {
		t.Fatal(err)
	}
	var last Total
	Eventually(t, "the last word of "+l.Pod.Ref(), func() (err error) {
		if last, err = l.total(t.Context()); err == nil && !last.Done {
			err = errors.New("it has not ended")
		}
		return err
	})
	return last
}

func (l *LoadRun) total(ctx context.Context) (total Total, err error) {
	few := int64(3)
	out, err := client().CoreV1().Pods(l.Pod.Namespace).GetLogs(l.Pod.Name, &corev1.PodLogOptions{TailLines: &few}).DoRaw(ctx)
	if err != nil {
		return total, err
	}
	err = errors.New("it has printed nothing")
	for line := range strings.Lines(string(out)) {
		var one Total
		if json.Unmarshal([]byte(line), &one) == nil {
			total, err = one, nil
		}
	}
	return total, err
}

// Exec runs testapp in the pod to its end.
func (p *Pod) Exec(ctx context.Context, args ...string) (stdout string, err error) {
	req := client().CoreV1().RESTClient().Post().Resource("pods").Namespace(p.Namespace).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "app", Command: append([]string{"/testapp"}, args...), Stdout: true, Stderr: true}, scheme.ParameterCodec)
	exec, err := remotecommand.NewWebSocketExecutor(current.REST(), "GET", req.URL().String())
	if err != nil {
		return "", err
	}
	var out, bad bytes.Buffer
	if err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &bad}); err != nil {
		return out.String(), fmt.Errorf("testapp %s in %s: %w: %s", strings.Join(args, " "), p.Ref(), err, strings.TrimSpace(bad.String()))
	}
	return out.String(), nil
}

// Try connects to a target once, from the pod. The error is that of the
// connection: it did not come about, or did not echo.
func (p *Pod) Try(t *testing.T, target string, flags ...string) (Total, error) {
	t.Helper()
	out, err := p.Exec(t.Context(), append([]string{"client", target, "-count", "1", "-timeout", "10s"}, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	var total Total
	if err := json.Unmarshal([]byte(out[strings.LastIndexByte(strings.TrimSpace(out), '\n')+1:]), &total); err != nil {
		t.Fatalf("testapp said %q: %v", out, err)
	}
	if total.OK == 0 {
		return total, fmt.Errorf("%s -> %s: %s", p.Ref(), target, total.Last)
	}
	return total, nil
}

// Reach wants a connection to come about, in the end.
func (p *Pod) Reach(t *testing.T, target string, flags ...string) Total {
	t.Helper()
	var total Total
	Eventually(t, p.Ref()+" reaches "+target, func() (err error) {
		total, err = p.Try(t, target, flags...)
		return err
	})
	return total
}

// Refused wants a connection to be refused, in the end.
func (p *Pod) Refused(t *testing.T, target string, flags ...string) {
	t.Helper()
	Eventually(t, p.Ref()+" is refused by "+target, func() error {
		if total, err := p.Try(t, target, append([]string{"-timeout", "4s"}, flags...)...); err == nil {
			return fmt.Errorf("it gets through: %s", total)
		}
		return nil
	})
}

// Logs are those of a container of the pod.
func Logs(ctx context.Context, ns, pod string, options corev1.PodLogOptions) string {
	out, err := client().CoreV1().Pods(ns).GetLogs(pod, &options).DoRaw(ctx)
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// Events are the messages of a pod's events.
func Events(ctx context.Context, ns, name string) string {
	list, err := client().CoreV1().Events(ns).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, e := range list.Items {
		fmt.Fprintf(&b, "%s %s: %s\n", e.Type, e.Reason, e.Message)
	}
	return b.String()
}
