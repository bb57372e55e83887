package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// auditPolicy records what the mesh asks of the API, so that a test can tell
// which of the verbs in its roles are used.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts:adit-system"]
- level: None
`

// credentials issues all that the control plane needs, and the administrator's kubeconfig.
func (c *Cluster) credentials() (*pki, error) {
	p, err := newPKI(filepath.Join(c.dir, "pki"))
	if err != nil {
		return nil, err
	}
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	loopback := netip.MustParseAddr("127.0.0.1")
	if err := p.server("apiserver", names, append([]netip.Addr{apiServiceIP, loopback}, controlAddrs...)...); err != nil {
		return nil, err
	}
	for _, u := range []struct{ name, user, group string }{
		{"admin", "admin", "system:masters"},
		{"apiserver-kubelet-client", "kube-apiserver-kubelet-client", "system:masters"},
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"kube-proxy", "system:kube-proxy", ""},
	} {
		var groups []string
		if u.group != "" {
			groups = []string{u.group}
		}
		if err := p.client(u.name, u.user, groups...); err != nil {
			return nil, err
		}
		if err := p.kubeconfig(u.name, apiURL); err != nil {
			return nil, err
		}
	}
	return p, os.WriteFile(p.file("audit.yaml"), []byte(auditPolicy), 0o644)
}

// apiURL is the API server as the machines see it.
var apiURL = fmt.Sprintf("https://%s", netip.AddrPortFrom(controlAddrs[0], apiPort))

func (c *Cluster) startEtcd() error {
	return c.cp.start("etcd", "/usr/bin/etcd",
		"--data-dir", filepath.Join(c.cp.dir, "etcd"),
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380", "--logger=zap", "--log-level=warn")
}

// StartAPIServer starts it again after StopAPIServer. It does not wait; see [Cluster.WaitReady].
func (c *Cluster) StartAPIServer() error {
	p := func(name string) string { return filepath.Join(c.dir, "pki", name) }
	return c.cp.start("kube-apiserver", c.bin("kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:2379",
		"--bind-address="+controlAddrs[0].String(), "--advertise-address="+controlAddrs[0].String(),
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--client-ca-file="+p("ca.crt"),
		"--tls-cert-file="+p("apiserver.crt"), "--tls-private-key-file="+p("apiserver.key"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+p("sa.key"), "--service-account-signing-key-file="+p("sa.key"),
		"--kubelet-client-certificate="+p("apiserver-kubelet-client.crt"), "--kubelet-client-key="+p("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority="+p("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-cluster-ip-range="+join(serviceCIDRs),
		"--allow-privileged=true", "--profiling=false",
		"--audit-policy-file="+p("audit.yaml"), "--audit-log-path="+c.AuditLog(), "--audit-log-maxsize=100")
}

// StopAPIServer kills it, as a lost control plane does: nobody is told.
func (c *Cluster) StopAPIServer() error {
	return c.cp.stop("kube-apiserver", unix.SIGKILL, time.Second)
}

func (c *Cluster) startControllers() error {
	p := func(name string) string { return filepath.Join(c.dir, "pki", name) }
	err := c.cp.start("kube-controller-manager", c.bin("kube-controller-manager"),
		"--kubeconfig="+p("controller-manager.conf"), "--use-service-account-credentials=true",
		"--service-account-private-key-file="+p("sa.key"), "--root-ca-file="+p("ca.crt"),
		"--cluster-signing-cert-file="+p("ca.crt"), "--cluster-signing-key-file="+p("ca.key"),
		"--leader-elect=false", "--profiling=false",
		"--bind-address=127.0.0.1")
	if err != nil {
		return err
	}
	return c.cp.start("kube-scheduler", c.bin("kube-scheduler"),
		"--kubeconfig="+p("scheduler.conf"), "--leader-elect=false", "--bind-address=127.0.0.1")
}

// AuditLog is the file with every request that service accounts of adit-system
// made, one JSON event a line (audit.k8s.io/v1).
func (c *Cluster) AuditLog() string { return filepath.Join(c.cp.dir, "audit.log") }

func join[T fmt.Stringer](list []T) string {
	var parts []string
	for _, v := range list {
		parts = append(parts, v.String())
	}
	return strings.Join(parts, ",")
}
