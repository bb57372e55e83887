package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// writeSchemas writes what the definitions of the experimental channel, which
// has every field of the standard one, say of specs: by "Kind/version".
// Left out are
// descriptions, rules in CEL, and what every kind has.
func writeSchemas(root, target string) error {
	m, err := locate(root, gatewayAPI)
	if err != nil {
		return err
	}
	files, err := bundle(m, "experimental")
	if err != nil {
		return err
	}
	out := make(map[string]any)
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var crd apiextensions.CustomResourceDefinition
		if err := yaml.Unmarshal(data, &crd); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if crd.Kind != "CustomResourceDefinition" {
			continue
		}
		for _, v := range crd.Spec.Versions {
			raw, err := json.Marshal(v.Schema.OpenAPIV3Schema)
			if err != nil {
				return err
			}
			var tree map[string]any
			if err := json.Unmarshal(raw, &tree); err != nil {
				return err
			}
			strip(tree)
			if p, ok := tree["properties"].(map[string]any); ok {
				for _, every := range [...]string{"apiVersion", "kind", "metadata", "status"} {
					delete(p, every)
				}
			}
			tree["x-scope"] = string(crd.Spec.Scope)
			out[crd.Spec.Names.Kind+"/"+v.Name] = tree
		}
	}
	text, err := lines(out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(target, text, 0o644); err != nil {
		return err
	}
	fmt.Println(target)
	return nil
}

// lines is a JSON object with a line for each key, sorted.
func lines(of map[string]any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(of); err != nil {
		return nil, err
	}
	text := b.String()
	for key := range of {
		text = strings.Replace(text, `"`+key+`":{`, "\n"+`"`+key+`":{`, 1)
	}
	return []byte(text), nil
}

// strip removes from a schema and all below it what only readers and CEL use.
func strip(schema map[string]any) {
	delete(schema, "description")
	delete(schema, "x-kubernetes-validations")
	for _, key := range [...]string{"items", "additionalProperties", "not"} {
		if sub, ok := schema[key].(map[string]any); ok {
			strip(sub)
		}
	}
	if properties, ok := schema["properties"].(map[string]any); ok {
		// A property may be called description.
		for _, sub := range properties {
			if sub, ok := sub.(map[string]any); ok {
				strip(sub)
			}
		}
	}
	for _, key := range [...]string{"anyOf", "oneOf", "allOf"} {
		list, _ := schema[key].([]any)
		for _, sub := range list {
			if sub, ok := sub.(map[string]any); ok {
				strip(sub)
			}
		}
	}
}
