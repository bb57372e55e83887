// Command crds writes the custom resource definitions of Istio's security
// policies out of the istio.io/api module that adit is built with, so that what
// the API server accepts and what the agent reads are of one version.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// module defines the types; file holds the definitions of all of them.
const (
	module = "istio.io/api"
	file   = "kubernetes/customresourcedefinitions.gen.yaml"
)

// wanted are the definitions that adit reads, and the file each goes to.
var wanted = map[string]string{
	"peerauthentications.security.istio.io":   "peerauthentications.yaml",
	"authorizationpolicies.security.istio.io": "authorizationpolicies.yaml",
}

func main() {
	root := flag.String("root", "..", "directory of the module whose version of "+module+" counts")
	out := flag.String("out", "", "directory to write to; it is made")
	flag.Parse()
	if *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := run(*root, *out); err != nil {
		fmt.Fprintln(os.Stderr, "crds:", err)
		os.Exit(1)
	}
}

func run(root, out string) error {
	dir, version, err := locate(root)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	found, err := pick(data)
	if err != nil {
		return fmt.Errorf("%s@%s/%s: %w", module, version, file, err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, doc := range found {
		head := fmt.Sprintf("# Written by `make crds` out of %s@%s; not to be edited.\n", module, version)
		target := filepath.Join(out, wanted[name])
		if err := os.WriteFile(target, append([]byte(head), doc...), 0o644); err != nil {
			return err
		}
		fmt.Println(target)
	}
	return nil
}

// locate is where the module cache has the module, downloaded if need be.
func locate(root string) (dir, version string, err error) {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		return "", "", fmt.Errorf("find %s: %w: %s", module, err, answer)
	}
	var m struct{ Dir, Version string }
	if err := json.Unmarshal(answer, &m); err != nil {
		return "", "", fmt.Errorf("find %s: %w", module, err)
	}
	return m.Dir, m.Version, nil
}

// pick returns the wanted documents of a YAML stream, by name and as they are.
func pick(stream []byte) (map[string][]byte, error) {
	found := make(map[string][]byte)
	for doc := range bytes.SplitSeq(stream, []byte("\n---\n")) {
		var head struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal(doc, &head); err != nil {
			return nil, err
		}
		if head.Kind != "CustomResourceDefinition" || wanted[head.Metadata.Name] == "" {
			continue
		}
		if found[head.Metadata.Name] != nil {
			return nil, fmt.Errorf("%s is there twice", head.Metadata.Name)
		}
		found[head.Metadata.Name] = append(bytes.TrimSpace(doc), '\n')
	}
	var missing []error
	for name := range wanted {
		if found[name] == nil {
			missing = append(missing, fmt.Errorf("no definition of %s", name))
		}
	}
	return found, errors.Join(missing...)
}
