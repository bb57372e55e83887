package cluster

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

//go:embed addons.yaml
var addonsYAML string

// startTime bounds what happens in seconds, on a machine that does much else.
const startTime = 3 * time.Minute

func (c *Cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return err
	}
	config.QPS, config.Burst = 100, 200
	c.rest = config
	c.client, err = kubernetes.NewForConfig(config)
	return err
}

// Kubeconfig is the administrator's, usable from the host.
func (c *Cluster) Kubeconfig() string { return c.pki.file("host.conf") }

// KubectlPath is the kubectl of the cluster's version.
func (c *Cluster) KubectlPath() string { return c.bin("kubectl") }

// REST is the administrator's configuration for clients. Copy it before changing it.
func (c *Cluster) REST() *rest.Config { return c.rest }

// Client is the administrator's client.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Kubectl runs kubectl as the administrator and returns its standard output; the
// error carries its standard error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, "", args...)
}

// Apply applies manifests given as text.
func (c *Cluster) Apply(ctx context.Context, manifests string) error {
	_, err := c.kubectl(ctx, manifests, "apply", "-f", "-")
	return err
}

func (c *Cluster) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.KubectlPath(), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Dir = c.cfg.Root
	cmd.Stdin = strings.NewReader(stdin)
	var out, bad strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(bad.String()))
	}
	return out.String(), nil
}

// kubeletRestarts is how often WaitReady starts a kubelet that has ended, as its
// service manager would: it ends when it finds a containerd that has only just
// come up.
const kubeletRestarts = 3

// WaitReady waits until the API server answers and every node is ready: reported
// by the kubelet that runs now, which can be reached.
func (c *Cluster) WaitReady(ctx context.Context) error {
	restarts := 0
	return poll(ctx, startTime, func() error {
		for _, daemon := range []string{"etcd", "kube-apiserver"} {
			if !c.cp.running(daemon) {
				return permanent(fmt.Errorf("%s has ended: %s", daemon, c.cp.logTail(daemon)))
			}
		}
		nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return fmt.Errorf("API server: %w", err)
		}
		known := map[string]corev1.Node{}
		for _, n := range nodes.Items {
			known[n.Name] = n
		}
		for _, n := range c.nodes {
			if !n.running("kubelet") {
				err := fmt.Errorf("kubelet on %s has ended: %s", n.name, n.logTail("kubelet"))
				if restarts++; restarts > kubeletRestarts {
					return permanent(err)
				}
				return errors.Join(err, n.StartKubelet())
			}
			if err := c.nodeReady(ctx, n, known[n.name]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (c *Cluster) nodeReady(ctx context.Context, n *Node, known corev1.Node) error {
	if known.Name == "" {
		return fmt.Errorf("node %s has not registered; see %s", n.name, n.Log("kubelet"))
	}
	if len(known.Spec.PodCIDRs) == 0 {
		cidrs := nodePodCIDRs(n.index)
		patch := fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":[%q,%q]}}`, cidrs[0], cidrs[0], cidrs[1])
		if _, err := c.client.CoreV1().Nodes().Patch(ctx, n.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	i := slices.IndexFunc(known.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
	if i < 0 {
		return fmt.Errorf("node %s says nothing about being ready", n.name)
	}
	switch condition := known.Status.Conditions[i]; {
	case condition.Status != corev1.ConditionTrue:
		return fmt.Errorf("node %s is not ready: %s", n.name, condition.Message)
	case condition.LastHeartbeatTime.Time.Before(n.since("kubelet").Truncate(time.Second)): // which is how they are told
		return fmt.Errorf("the kubelet of node %s has not reported since it was started", n.name)
	}
	if _, err := c.client.CoreV1().RESTClient().Get().Resource("nodes").Name(n.name).SubResource("proxy").Suffix("healthz").DoRaw(ctx); err != nil {
		return fmt.Errorf("kubelet of node %s: %w", n.name, err)
	}
	return nil
}

// addons applies what a cluster has beside Kubernetes and waits for it.
func (c *Cluster) addons(ctx context.Context) error {
	if err := c.Apply(ctx, addonsYAML); err != nil {
		return err
	}
	for _, what := range []string{"daemonset/dns", "deployment/balancer"} {
		if _, err := c.Kubectl(ctx, "-n", "kube-system", "rollout", "status", what, "--timeout=120s"); err != nil {
			return err
		}
	}
	return nil
}
