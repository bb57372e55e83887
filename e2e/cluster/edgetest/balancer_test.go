package edgetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/adit-mesh/adit/e2e/cluster/meshlab"
)

// balancer does for connections from outside what a cloud's does: it spreads new
// ones over the nodes whose health check says that they have a pod of the edge,
// and leaves those that there are where they are. Without it all would go to the
// first node, whose pods come and go.
type balancer struct {
	nodes []netip.Addr
	ports []int32 // of health checks, one for each Service; all say the same
	used  []int   // of nodes
}

// The addresses that the cluster gives to Services, and the routing tables and
// marks of nodes, counted from 1.
const (
	balanced   = "172.30.1.0/24"
	tablesFrom = 100
)

// balance makes the routes, and follows the health of the nodes until ctx ends.
func balance(ctx context.Context) error {
	cp := meshlab.Cluster().Outside()
	b := &balancer{}
	_, dst, err := net.ParseCIDR(balanced)
	if err != nil {
		return err
	}
	for i, n := range meshlab.Cluster().Nodes() {
		got, err := meshlab.Cluster().Client().CoreV1().Nodes().Get(ctx, n.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		at, err := netip.ParseAddr(got.Status.Addresses[0].Address)
		if err != nil {
			return err
		}
		b.nodes = append(b.nodes, at)
		table := tablesFrom + i + 1
		if err := cp.Netlink().RouteReplace(&netlink.Route{Dst: dst, Gw: at.AsSlice(), Table: table}); err != nil {
			return fmt.Errorf("route to %s by %s: %w", balanced, at, err)
		}
		rule := netlink.NewRule()
		rule.Mark, rule.Table, rule.Priority = uint32(i+1), table, 50
		if err := cp.Netlink().RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rule for mark %d: %w", i+1, err)
		}
	}
	all := make([]int, len(b.nodes))
	for i := range all {
		all[i] = i
	}
	if err := b.spread(all); err != nil {
		return err
	}
	go b.follow(ctx)
	return nil
}

// spread has new connections go to these nodes, in turn.
func (b *balancer) spread(nodes []int) error {
	var turns []string
	for turn, n := range nodes {
		turns = append(turns, fmt.Sprintf("%d : %d", turn, n+1))
	}
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`
table ip balancer
delete table ip balancer
table ip balancer {
	chain output {
		type route hook output priority mangle
		ip daddr %[1]s ct mark 0 ct mark set numgen inc mod %[2]d map { %[3]s }
		ip daddr %[1]s meta mark set ct mark
	}
}`, balanced, len(nodes), strings.Join(turns, ", ")))
	var out strings.Builder
	cmd.Stderr = &out
	if err := meshlab.Cluster().Outside().Do(cmd.Run); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out.String())
	}
	b.used = nodes
	return nil
}

func (b *balancer) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if list, err := meshlab.Cluster().Client().CoreV1().Services(meshlab.System).List(ctx, metav1.ListOptions{}); err == nil {
			b.ports = nil
			for _, s := range list.Items {
				if s.Spec.HealthCheckNodePort != 0 {
					b.ports = append(b.ports, s.Spec.HealthCheckNodePort)
				}
			}
		}
		for range 5 {
			var healthy []int
			for i := range b.nodes {
				if b.healthy(ctx, i) {
					healthy = append(healthy, i)
				}
			}
			// If all fail, balancers go on as if none did.
			if len(healthy) > 0 && !slices.Equal(healthy, b.used) {
				if err := b.spread(healthy); err != nil {
					fmt.Println("balancer:", err)
				} else {
					fmt.Println(time.Now().Format("15:04:05.000"), "balancer: to nodes", healthy)
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

var checker = &http.Client{Timeout: time.Second, Transport: &http.Transport{
	DisableKeepAlives: true,
	DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return meshlab.Cluster().Outside().Dial(ctx, nil, network, addr)
	},
}}

// healthy asks the health check of one Service: a new one may not be known to the node yet.
func (b *balancer) healthy(ctx context.Context, node int) bool {
	for _, port := range b.ports {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/healthz", netip.AddrPortFrom(b.nodes[node], uint16(port))), nil)
		if err != nil {
			return false
		}
		res, err := checker.Do(req)
		if err != nil {
			continue
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	}
	return false
}
