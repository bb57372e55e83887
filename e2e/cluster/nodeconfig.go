package cluster

import (
	"encoding/json"
)

const (
	pauseImage    = "registry.local/pause:3.10"
	debianPlugins = "/usr/lib/cni"
)

// containerdConfig leaves every path at its default: each node has its own file system.
const containerdConfig = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "` + CNIBinDir + `"
    conf_dir = "` + CNIConfDir + `"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`

type object = map[string]any

// document renders an object as JSON, which is YAML. Its values are all ours.
func document(o object) string {
	b, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		panic(err)
	}
	return string(b) + "\n"
}

func (n *Node) cniConfig() string {
	var ranges [][]object
	for _, cidr := range nodePodCIDRs(n.index) {
		ranges = append(ranges, []object{{"subnet": cidr.String()}})
	}
	return document(object{
		"cniVersion": "1.0.0",
		"name":       "podnet",
		"plugins": []object{{
			"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
			"ipam": object{
				"type": "host-local", "ranges": ranges,
				"routes": []object{{"dst": "0.0.0.0/0"}, {"dst": "::/0"}},
			},
		}},
	})
}

func (n *Node) kubeletConfig() string {
	p := n.cluster.pki
	return document(object{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + n.cgroup(),
		"failCgroupV1":             false,
		"failSwapOn":               false,
		"authentication": object{
			"x509":      object{"clientCAFile": p.file("ca.crt")},
			"webhook":   object{"enabled": true},
			"anonymous": object{"enabled": false},
		},
		"authorization":     object{"mode": "Webhook"},
		"tlsCertFile":       p.file("kubelet-server-" + n.name + ".crt"),
		"tlsPrivateKeyFile": p.file("kubelet-server-" + n.name + ".key"),
		"clusterDNS":        []string{dnsServiceIP.String()},
		"clusterDomain":     "cluster.local",
		"maxPods":           300,
		// The host's disk is not the node's to fill or to guard, and no image could be pulled again.
		"evictionHard":                object{"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
		"imageGCHighThresholdPercent": 100,
		"serializeImagePulls":         false,
		// kube-proxy is the only one with rules, and they are nftables'.
		"makeIPTablesUtilChains": false,
		// The default is a directory of the host.
		"volumePluginDir": "/var/lib/kubelet/volume-plugins",
		// A node that is gone has to be noticed while a test waits.
		"nodeStatusUpdateFrequency": "5s",
	})
}

func (n *Node) kubeProxyConfig() string {
	return document(object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
		"kind":       "KubeProxyConfiguration",
		"mode":       "nftables",
		// A second is what tests wait for most often.
		"nftables":           object{"minSyncPeriod": "100ms"},
		"hostnameOverride":   n.name,
		"clientConnection":   object{"kubeconfig": n.cluster.pki.file("kube-proxy.conf")},
		"clusterCIDR":        join(podCIDRs),
		"metricsBindAddress": "127.0.0.1:10249",
		// The size of the connection table is the host's.
		"conntrack": object{"maxPerCore": 0},
	})
}
