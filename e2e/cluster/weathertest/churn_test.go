package weathertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// possession is what an agent has and a node has of it.
type possession struct {
	goroutines, files, heap float64 // heap in MiB, with garbage
	resident                float64 // MiB
	certificates, pods      int
	elements                int // lines of the node's own rules
	namespaces              int // network namespaces of pods
}

func (p possession) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f files, heap %.1f MiB, resident %.1f MiB, %d certificates, %d pods, %d lines of rules on the node, %d network namespaces",
		p.goroutines, p.files, p.heap, p.resident, p.certificates, p.pods, p.elements, p.namespaces)
}

func possessions(ctx context.Context, on string) (possession, error) {
	n := node(on)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return n.Netns().Dial(ctx, &net.Dialer{}, network, addr)
		},
	}}
	res, err := client.Get("http://127.0.0.1:15020/metrics")
	if err != nil {
		return possession{}, err
	}
	defer res.Body.Close()
	var p possession
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		series, text, _ := strings.Cut(lines.Text(), " ")
		name, _, _ := strings.Cut(series, "{")
		value, _ := strconv.ParseFloat(text, 64)
		switch name {
		case "go_goroutines":
			p.goroutines = value
		case "process_open_fds":
			p.files = value
		case "go_memstats_alloc_bytes":
			p.heap = value / (1 << 20)
		case "process_resident_memory_bytes":
			p.resident = value / (1 << 20)
		case "adit_certificate_expiry_timestamp_seconds":
			p.certificates++
		case "adit_pods":
			p.pods += int(value)
		}
	}
	if p.goroutines == 0 || p.files == 0 {
		return p, errors.New("the agent's metrics do not tell")
	}
	rules, err := n.Exec(ctx, "/usr/sbin/nft", "list", "table", "inet", "adit_host")
	if err != nil {
		return p, err
	}
	p.elements = strings.Count(rules, "\n") + strings.Count(rules, ",")
	entries, err := os.ReadDir(n.Path("/run/netns"))
	p.namespaces = len(entries)
	return p, err
}

const (
	churned = 200
	batch   = 20 // at a time
)

// churnWait is how long a batch may take on a machine that does much else.
const churnWait = 3 * time.Minute

// Pods come, connect, and go, and leave nothing with the agents.
func TestPodChurn(t *testing.T) {
	s := begin(t)
	round := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			// Identities come and go as well.
			meshlab.Create(t, s.ns, meshlab.PodSpec{
				Name: fmt.Sprintf("churn-%d", i), Node: []string{front, back}[i%2], ServiceAccount: fmt.Sprintf("churn-%d", i%10),
				Labels: map[string]string{"app": "churn"},
				Args:   []string{"client", s.target, "-until-ok", "-every", "50ms", "-for", "60s", "-fail"},
			})
		}
		meshlab.Within(t, churnWait, "all pods of a batch have connected", func() error {
			list, err := api().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=churn", FieldSelector: "status.phase!=Succeeded"})
			if err == nil && len(list.Items) > 0 {
				err = fmt.Errorf("%d have not, %s for instance: %s", len(list.Items), list.Items[0].Name, list.Items[0].Status.Phase)
			}
			return err
		})
		err := api().CoreV1().Pods(s.ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=churn"})
		must(t, err)
		meshlab.Within(t, churnWait, "all pods of a batch are gone", func() error {
			list, err := api().CoreV1().Pods(s.ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=churn"})
			if err == nil && len(list.Items) > 0 {
				err = fmt.Errorf("%d are there", len(list.Items))
			}
			return err
		})
	}
	round(0, batch) // what is made once is made by now
	before := map[string]possession{}
	for _, on := range []string{front, back} {
		meshlab.Within(t, time.Minute, "the agent of "+on+" has forgotten the first batch", func() error {
			p, err := possessions(t.Context(), on)
			if err == nil && p.certificates > 2 {
				err = errors.New(p.String())
			}
			before[on] = p
			return err
		})
		t.Logf("%s before: %s", on, before[on])
	}
	for n := 0; n < churned; n += batch {
		round(n, n+batch)
	}
	for _, on := range []string{front, back} {
		var now possession
		meshlab.Within(t, time.Minute, "the agent of "+on+" has what it had before", func() error {
			var err error
			if now, err = possessions(t.Context(), on); err != nil {
				return err
			}
			b := before[on]
			if now.goroutines > b.goroutines+20 || now.files > b.files+10 || now.heap > b.heap+16 || now.resident > b.resident+32 ||
				now.certificates > b.certificates || now.pods > b.pods || now.elements > b.elements+2 || now.namespaces > b.namespaces {
				return fmt.Errorf("it had %s; it has %s", b, now)
			}
			return nil
		})
		t.Logf("%s after:  %s", on, now)
	}
	out, err := meshlab.Adit("pods", "--all")
	must(t, err)
	if strings.Contains(out, "/churn-") {
		t.Errorf("adit pods tells of pods that are gone:\n%s", out)
	}
	s.unaffected(t, "200 pods created and deleted")
}
