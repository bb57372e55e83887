// Command adit-cni is the last plugin in a node's CNI chain: before a pod's
// first process starts it has the agent of the node capture the pod, and when
// there is no agent it lets no pod start. It changes nothing itself.
//
// https://www.cni.dev/docs/spec/
package main

import (
	"fmt"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	cniversion "github.com/containernetworking/cni/pkg/version"
)

// version is set by the linker.
var version = "unknown"

func main() {
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: add, Del: del, Check: check, GC: gc, Status: status,
	}, cniversion.All, "adit-cni "+version+": the CNI plugin of adit, for container runtimes to call")
	if err == nil {
		return
	}
	// A pod that ends has nothing to wait for. Whatever is wrong with the
	// request, its address and its interface must be given back.
	if os.Getenv("CNI_COMMAND") == "DEL" {
		fmt.Fprintln(os.Stderr, "adit-cni:", err)
		return
	}
	if printErr := err.Print(); printErr != nil {
		fmt.Fprintln(os.Stderr, "adit-cni:", err)
	}
	os.Exit(1)
}
