package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	gatewayAPI = "sigs.k8s.io/gateway-api"
	// group is that of the kinds which adit serves; the experimental channel has
	// others beside them.
	group = "gateway.networking.k8s.io"

	// Envoy Gateway's policies are optional and only their definitions are used,
	// so the module is in no go.mod: version and checksum stand here.
	envoyGateway    = "github.com/envoyproxy/gateway@v1.9.1"
	envoyGatewaySum = "h1:vAVp6/AlBXJ1aOhp1mxL7fNEzVEfjADUguUhm2wzxQY="
	envoyCharts     = "charts/gateway-helm/charts/crds/crds/generated"
	clientTraffic   = "gateway.envoyproxy.io_clienttrafficpolicies.yaml"
)

// channels are Gateway API's release channels, as its module names them.
var channels = []string{"standard", "experimental"}

// writeGatewayAPI copies the bundle of each channel: the definitions as they
// are, with the annotations that say which bundle they are of, and the policy
// that guards against a mix of channels.
func writeGatewayAPI(root, out string) error {
	m, err := locate(root, gatewayAPI)
	if err != nil {
		return err
	}
	for _, channel := range channels {
		files, err := bundle(m, channel)
		if err != nil {
			return err
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			if !bytes.Contains(data, []byte(group+"/bundle-version: "+m.Version)) {
				return fmt.Errorf("%s does not say that it is of bundle %s", name, m.Version)
			}
			target := filepath.Join(out, channel, strings.TrimPrefix(filepath.Base(name), group+"_"))
			if err := m.write(target, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// bundle are the files of one channel that concern adit.
func bundle(m source, channel string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(m.Dir, "config", "crd", channel, group+"_*.yaml"))
	if err == nil && len(files) == 0 {
		err = errors.New("no definitions of channel " + channel + " in " + m.String())
	}
	return files, err
}

func writeEnvoyGateway(root, out string) error {
	m, err := locate(root, envoyGateway)
	if err != nil {
		return err
	}
	if m.Sum != envoyGatewaySum {
		return fmt.Errorf("%s has the checksum %s, not %s: it is not what was reviewed", m, m.Sum, envoyGatewaySum)
	}
	data, err := os.ReadFile(filepath.Join(m.Dir, envoyCharts, clientTraffic))
	if err != nil {
		return err
	}
	if data, err = withTargetNamespace(data); err != nil {
		return fmt.Errorf("%s: %w", clientTraffic, err)
	}
	return m.write(filepath.Join(out, "clienttrafficpolicies.yaml"), data)
}

// withTargetNamespace gives targetRef its namespace back. It had one up to Envoy
// Gateway v0.6, and manifests of that time would be refused without.
func withTargetNamespace(crd []byte) ([]byte, error) {
	const ref, next = "\n              targetRef:\n", "\n                  sectionName:\n"
	const field = `
                  namespace:
                    description: |-
                      Namespace is that of the policy itself; another one is refused by condition.

                      Deprecated: in manifests written for Envoy Gateway up to v0.6
                    maxLength: 63
                    minLength: 1
                    pattern: ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$
                    type: string`
	before, block, found := bytes.Cut(crd, []byte(ref))
	head, tail, inside := bytes.Cut(block, []byte(next))
	if !found || !inside || bytes.Contains(head, []byte("\n                  namespace:\n")) {
		return nil, errors.New("targetRef is not as expected: a group, kind, name and sectionName")
	}
	return bytes.Join([][]byte{before, []byte(ref), head, []byte(field), []byte(next), tail}, nil), nil
}
