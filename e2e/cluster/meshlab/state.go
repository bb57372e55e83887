package meshlab

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster"
)

// InNetns runs a program of the host in the network namespace of a pod.
func (p *Pod) InNetns(ctx context.Context, argv ...string) (string, error) {
	node := current.Node(p.Node)
	out, err := node.Exec(ctx, "/usr/bin/ctr", "-n", "k8s.io", "containers", "info", p.container)
	if err != nil {
		return "", err
	}
	var info struct {
		Spec struct {
			Linux struct {
				Namespaces []struct{ Type, Path string }
			} `json:"linux"`
		}
	}
	if err := json.Unmarshal([]byte(out), &info); err != nil {
		return "", err
	}
	for _, ns := range info.Spec.Linux.Namespaces {
		if ns.Type == "network" {
			return node.Exec(ctx, append([]string{"/usr/bin/nsenter", "--net=" + ns.Path}, argv...)...)
		}
	}
	return "", fmt.Errorf("%s has no network namespace of its own", p.Ref())
}

// Rules is the nft ruleset in the pod's namespace, and the routing rules of
// ours; "" is none.
func Rules(ctx context.Context, p *Pod) (string, error) {
	rules, err := p.InNetns(ctx, "nft", "list", "ruleset")
	if err != nil {
		return "", err
	}
	for _, family := range []string{"-4", "-6"} {
		routing, err := p.InNetns(ctx, "ip", family, "rule")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(routing) {
			if !strings.Contains(line, "lookup local") && !strings.Contains(line, "lookup main") && !strings.Contains(line, "lookup default") {
				rules += line
			}
		}
	}
	return rules, nil
}

// What differs from one look to the next with nothing done in between.
var (
	perPod   = regexp.MustCompile(`\bveth[0-9a-f]+\b`)
	lifetime = regexp.MustCompile(` (expires|age|used) \S+`)
	moving   = regexp.MustCompile(`nf_conntrack_(count|max|buckets)$|/neigh/|/route/flush$|stable_secret$`)
)

// NodeState is everything of a node and its pods that removing adit must
// restore. Names of differing keys say where a difference is.
func NodeState(ctx context.Context, n *cluster.Node) (map[string]string, error) {
	state := map[string]string{}
	err := network(ctx, state, "node", func(ctx context.Context, argv ...string) (string, error) { return n.Exec(ctx, argv...) })
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cluster.CNIConfDir, cluster.CNIBinDir, cluster.RunDir} {
		if err := files(state, n.Path(dir), dir); err != nil {
			return nil, err
		}
	}
	list, err := client().CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.Name()})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		p := &list.Items[i]
		if p.Namespace == System || p.Spec.HostNetwork || p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			continue
		}
		pod, err := podOf(p)
		if err != nil {
			return nil, err
		}
		at := fmt.Sprintf("pod %s (%s)", pod.Ref(), pod.UID)
		state[at+" finalizers"] = strings.Join(p.Finalizers, " ")
		if err := network(ctx, state, at, pod.InNetns); err != nil {
			return nil, err
		}
	}
	return state, nil
}

// network adds what is in one network namespace.
func network(ctx context.Context, state map[string]string, at string, run func(context.Context, ...string) (string, error)) error {
	for key, command := range map[string]string{
		"nft tables":  "nft list tables",
		"links":       "ip -o link show",
		"addresses":   "ip -o addr show",
		"rules":       "ip -4 rule",
		"rules of v6": "ip -6 rule",
		"routes":      "ip -4 route show table all",
		"routes v6":   "ip -6 route show table all",
		"listeners":   "ss -Hlnt",
		"xfrm":        "ip xfrm policy",
		"qdiscs":      "tc qdisc show",
		"sysctls":     "find /proc/sys/net -type f -readable -not -path */veth* -exec grep -sH . {} +",
	} {
		out, err := run(ctx, strings.Fields(command)...)
		if err != nil && key != "sysctls" { // some cannot be read
			return fmt.Errorf("%s: %w", at, err)
		}
		var kept []string
		for line := range strings.Lines(out) {
			name, _, _ := strings.Cut(line, ":")
			// The other pods' ends come and go, as do listeners of others on free ports.
			if at == "node" && perPod.MatchString(line) || key == "sysctls" && moving.MatchString(name) ||
				key == "listeners" && !strings.Contains(line, ":150") {
				continue
			}
			kept = append(kept, lifetime.ReplaceAllString(line, ""))
		}
		if at != "node" && key == "nft tables" && len(kept) > 0 {
			rules, err := run(ctx, "nft", "list", "ruleset")
			if err != nil {
				return err
			}
			kept = append(kept, rules)
		}
		state[at+" "+key] = strings.Join(kept, "")
	}
	return nil
}

func files(state map[string]string, dir, shown string) error {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(shown, e.Name())
		info, err := e.Info()
		if err != nil {
			return err
		}
		state["file "+name] = info.Mode().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				return err
			}
			state["file "+name] += fmt.Sprintf(" %d bytes", len(b))
			if len(b) < 10000 {
				state["file "+name] += " " + string(b)
			}
		}
	}
	return nil
}

// Difference lists how a later state differs from an earlier one.
func Difference(before, after map[string]string) []string {
	var list []string
	for k, v := range after {
		if old, ok := before[k]; !ok && v != "" {
			list = append(list, "left behind: "+k+": "+v)
		} else if ok && old != v {
			list = append(list, fmt.Sprintf("%s was\n%s\nand is\n%s", k, old, v))
		}
	}
	for k := range before {
		if _, ok := after[k]; !ok {
			list = append(list, "gone: "+k)
		}
	}
	return list
}
