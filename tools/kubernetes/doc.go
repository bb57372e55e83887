// The kubernetes command is every component of the test cluster's Kubernetes in
// one binary, chosen by the name that it is called by.
//
// One binary links once and shares its pages between the six processes. The
// module stands apart from adit's, because its replacements pin every module
// under k8s.io to the release that is being run.
package main
