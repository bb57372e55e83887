package meshlab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EdgeOverlay is what [InstallEdge] applies beside [Overlay].
const EdgeOverlay = "deploy/overlays/ingress"

// ownController is what GatewayClasses of adit name, and the last line of the list in the manifests.
const ownController = "- adit-mesh.github.io/gateway-controller\n"

// InstallEdge applies the definitions of Gateway API and of ClientTrafficPolicy,
// and the manifests of the edge, in an overlay that has it serve the GatewayClasses
// of other controllers as well. It waits until the edge is ready, with the image
// that is loaded now.
func InstallEdge(ctx context.Context, controllers ...string) error {
	if asIs {
		asIs = false
		return nil
	}
	for _, dir := range []string{"deploy/crds/gateway-api/standard", "deploy/crds/envoy-gateway"} {
		if _, err := current.Kubectl(ctx, "apply", "--server-side", "-f", dir); err != nil {
			return err
		}
		if _, err := current.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"); err != nil {
			return err
		}
	}
	overlay, err := writeOverlay(controllers)
	if err != nil {
		return err
	}
	_, err = client().AppsV1().Deployments(System).Get(ctx, "adit-ingress", metav1.GetOptions{})
	before := err == nil
	if err != nil && !gone(err) {
		return err
	}
	if _, err := current.Kubectl(ctx, "apply", "-k", overlay); err != nil {
		return err
	}
	if before { // of an earlier run, perhaps with another image and configuration
		if _, err := current.Kubectl(ctx, "-n", System, "rollout", "restart", "deployment/adit-ingress"); err != nil {
			return err
		}
	}
	return WaitEdge(ctx)
}

// WaitEdge waits until all pods of the edge are ready, and no others are left.
func WaitEdge(ctx context.Context) error {
	_, err := current.Kubectl(ctx, "-n", System, "rollout", "status", "deployment/adit-ingress", "--timeout=180s")
	return err
}

// UninstallEdge deletes what [InstallEdge] applied, agents and CA included, and
// waits until it is gone; definitions stay.
func UninstallEdge(ctx context.Context) error {
	_, err := current.Kubectl(ctx, "delete", "-k", overlayDir(), "--ignore-not-found", "--wait=true", "--timeout=180s")
	return err
}

func overlayDir() string { return filepath.Join(current.Dir(), "edge") }

// writeOverlay writes what an operator keeps who changes the edge's configuration.
func writeOverlay(controllers []string) (dir string, err error) {
	const configMap = "deploy/base/ingress/configmap.yaml"
	patch, err := os.ReadFile(filepath.Join(root, configMap))
	if err != nil {
		return "", err
	}
	indent, _, found := strings.Cut(string(patch), ownController)
	if !found {
		return "", fmt.Errorf("%s has no line %q to add controllers to", configMap, strings.TrimSpace(ownController))
	}
	indent = indent[strings.LastIndexByte(indent, '\n')+1:]
	list := ownController
	for _, c := range controllers {
		list += indent + "- " + c + "\n"
	}
	dir = overlayDir()
	base, err := filepath.Rel(dir, filepath.Join(root, EdgeOverlay))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for name, text := range map[string]string{
		"kustomization.yaml": "resources:\n- " + base + "\npatches:\n- path: configmap.yaml\n",
		"configmap.yaml":     strings.Replace(string(patch), ownController, list, 1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}
