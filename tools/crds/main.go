// Command crds writes the custom resource definitions of what adit reads out of
// the modules that define it, so that what the API server accepts and what adit
// is built with are of one version:
//
//	DIR                             Istio's security policies
//	DIR/gateway-api/standard        Gateway API
//	DIR/gateway-api/experimental    the same with what is experimental
//	DIR/envoy-gateway               Envoy Gateway's ClientTrafficPolicy, for whoever has such
//
// With -schemas it also writes what those definitions say of Gateway API objects
// to a file, for reading such objects without an API server.
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
	schemas := flag.String("schemas", "", "file to write the schemas of Gateway API to; none if empty")
	flag.Parse()
	if *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	err := run(*root, *out)
	if err == nil && *schemas != "" {
		err = writeSchemas(*root, *schemas)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crds:", err)
		os.Exit(1)
	}
}

func run(root, out string) error {
	if err := writeIstio(root, out); err != nil {
		return err
	}
	if err := writeGatewayAPI(root, filepath.Join(out, "gateway-api")); err != nil {
		return err
	}
	return writeEnvoyGateway(root, filepath.Join(out, "envoy-gateway"))
}

func writeIstio(root, out string) error {
	m, err := locate(root, module)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(m.Dir, file))
	if err != nil {
		return err
	}
	found, err := pick(data)
	if err != nil {
		return fmt.Errorf("%s/%s: %w", m, file, err)
	}
	for name, doc := range found {
		if err := m.write(filepath.Join(out, wanted[name]), doc); err != nil {
			return err
		}
	}
	return nil
}

// source is a module as the module cache has it.
type source struct{ Path, Version, Dir, Sum string }

func (m source) String() string { return m.Path + "@" + m.Version }

// write makes a file that says where it comes from.
func (m source) write(target string, doc []byte) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	head := fmt.Sprintf("# Written by `make crds` out of %s; not to be edited.\n", m)
	if err := os.WriteFile(target, append([]byte(head), doc...), 0o644); err != nil {
		return err
	}
	fmt.Println(target)
	return nil
}

// locate finds a module in the module cache, downloaded if need be. Without a
// version it is the one that root's go.mod says.
func locate(root, module string) (source, error) {
	cmd := exec.Command("go", "mod", "download", "-json", module)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		return source{}, fmt.Errorf("find %s: %w: %s", module, err, answer)
	}
	var m source
	if err := json.Unmarshal(answer, &m); err != nil {
		return source{}, fmt.Errorf("find %s: %w", module, err)
	}
	return m, nil
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
