// Command meshbench measures what adit costs on a real cluster of two nodes, which it brings up for itself.
//
//	go run ./e2e/cluster/meshbench [-format json] [-keep] [-remote 10000] ...
//
// It prints how long a pod's enrolment takes, what an agent needs for the pods of its node and for those of others, and
// how soon a change of endpoints or policy is in force. Nothing is asserted: where a time depends on the machine, the
// same thing done without adit is measured in alternation, and the ratio is what counts.
//
// # Limitations
//
// A kubelet, a container runtime and an API server share the machine with what is measured. Local pods beyond -pods are
// network namespaces without processes, brought to the agent by its real CNI plugin while the kubelet is stopped; their
// API objects are made by hand. Remote pods are API objects on nodes that do not exist; kube-proxy is told to leave
// their services alone. The controllers, which would put either in order, are suspended meanwhile.
package main
