package reach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // kubeconfigs that name it
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// agentLabel is on the pods of agents.
const agentLabel = "app.kubernetes.io/name=adit-agent"

// edgeLabel is on the pods that may have an ingress.
const edgeLabel = "app.kubernetes.io/name in (adit-ingress, adit-agent)"

// kubeconfig is how to get at a cluster, in the words of kubectl.
func kubeconfig(path, context string) clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context})
}

// cluster is a cluster whose agents are to be asked.
type cluster struct {
	rest      *rest.Config
	core      *rest.RESTClient
	namespace string
	port      uint16
}

func newCluster(cfg *rest.Config, namespace string, port uint16) (*cluster, error) {
	// A scheme of core/v1 alone: the usual one links every API group.
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath = "/api"
	cfg.GroupVersion = &corev1.SchemeGroupVersion
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.QPS, cfg.Burst = 50, 100 // one request for each agent, once
	core, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, err
	}
	return &cluster{rest: cfg, core: core, namespace: namespace, port: port}, nil
}

// listTimeout bounds the search for agents.
const listTimeout = 15 * time.Second

// agents lists the agents of the cluster, or of one node.
func (c *cluster) agents(ctx context.Context, node string, edge bool) ([]*Agent, error) {
	label := agentLabel
	if edge {
		label = edgeLabel
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var pods corev1.PodList
	err := c.core.Get().Resource("pods").Namespace(c.namespace).Param("labelSelector", label).Do(ctx).Into(&pods)
	if err != nil {
		return nil, fmt.Errorf("list the agents in namespace %s at %s: %w", c.namespace, c.rest.Host, err)
	}
	var agents []*Agent
	var nodes []string
	for i := range pods.Items {
		pod := &pods.Items[i]
		nodes = append(nodes, pod.Spec.NodeName)
		if node == "" || pod.Spec.NodeName == node {
			agents = append(agents, c.agent(pod))
		}
	}
	switch {
	case len(pods.Items) == 0:
		return nil, fmt.Errorf("no pod labelled %s in namespace %s of the cluster at %s; is adit installed there? --namespace names where its agents run, --context another cluster",
			label, c.namespace, c.rest.Host)
	case len(agents) == 0:
		slices.Sort(nodes)
		return nil, fmt.Errorf("no agent on node %s; there are some on %s", node, strings.Join(slices.Compact(nodes), ", "))
	}
	sortAgents(agents)
	return agents, nil
}

func (c *cluster) agent(pod *corev1.Pod) *Agent {
	f := &forwarder{
		config: c.rest, port: c.port,
		url: c.core.Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL(),
	}
	// The agent takes requests for its loopback only, which is where they arrive.
	base := "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(c.port)))
	a := newAgent(pod.Spec.NodeName, pod.Name, base, f.dial)
	a.Problem = podProblem(pod)
	return a
}

// podProblem is why a pod cannot be asked, "" if it probably can.
func podProblem(pod *corev1.Pod) string {
	if pod.Status.Phase == corev1.PodRunning {
		for _, c := range pod.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil {
				return strings.TrimSpace(fmt.Sprintf("its container %s waits: %s %s", c.Name, w.Reason, w.Message))
			}
			if t := c.State.Terminated; t != nil {
				return strings.TrimSpace(fmt.Sprintf("its container %s has ended: %s, exit code %d %s", c.Name, t.Reason, t.ExitCode, t.Message))
			}
		}
		return ""
	}
	why := pod.Status.Message
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			why = c.Message
		}
	}
	for _, c := range append(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses...) {
		if w := c.State.Waiting; w != nil && w.Reason != "PodInitializing" && why == "" {
			why = strings.TrimSpace(w.Reason + " " + w.Message)
		}
	}
	problem := fmt.Sprintf("its pod is %s", pod.Status.Phase)
	if why != "" {
		problem += ": " + why
	}
	return problem
}

// loadCluster finds the cluster that path, the environment, the home directory
// or the pod we are in names, as kubectl does. errNoCluster: none of them does.
func loadCluster(path, context, namespace string, port uint16) (*cluster, error) {
	cfg, err := kubeconfig(path, context).ClientConfig()
	if err != nil {
		if clientcmd.IsEmptyConfig(err) || errors.Is(err, rest.ErrNotInCluster) {
			return nil, errNoCluster
		}
		return nil, fmt.Errorf("kubeconfig: %w", err)
	}
	return newCluster(cfg, namespace, port)
}

var errNoCluster = errors.New("no kubeconfig, and not in a cluster")
