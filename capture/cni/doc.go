// Package cni puts the adit-cni plugin last into the chain of CNI plugins that a node's container runtime calls for
// each pod, and keeps it there.
//
// The plugin's file and the chain that ends in it are files of our own: 00-adit.conflist is a copy of the configuration
// that the runtime would take without us, the lexically first, and the plugin after it. The original stays as it is.
// So whoever owns it may overwrite it at any moment, with no agent there to notice, and no pod starts without the
// plugin; the copy follows when the agent sees the change. And taking the file away restores what was there before,
// byte for byte.
//
//	/etc/cni/net.d/00-adit.conflist      ours: plugins of 10-bridge.conf, adit-cni
//	/etc/cni/net.d/10-bridge.conf        somebody's, untouched
//	/opt/cni/bin/adit-cni                ours
//
// # Limitations
//
// On a node that has no network configuration at all the runtime may start pods in the moment between a provider's
// first file and our copy of it. The agent captures such pods when it finds them running.
//
// A network provider that removes every other configuration, as Cilium does with cni.exclusive, and the installer undo
// each other's work: turn that off.
//
// While no agent runs the copy does not follow the original: a provider that is replaced then leaves its old chain in
// force until an agent starts.
//
// containerd must take one configuration, as it does unless max_conf_num is set: taking all of them, it would attach
// each pod to the network twice.
//
// CRI-O tears a pod down by the configuration it was set up with. Drain such a node before adit is removed from it,
// or pods of before wait for a plugin that is gone.
package cni
