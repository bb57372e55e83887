package schema

import (
	_ "embed" // the definitions
	"encoding/json"
	"fmt"
	"regexp"
	"sync"
)

// Group is the API group of all kinds here.
const Group = "gateway.networking.k8s.io"

// definitions are written by `make crds`.
//
//go:embed gateway-api.json
var definitions []byte

// Schema is the part of OpenAPI's schemas that Gateway API's definitions use.
type Schema struct {
	Type       string             `json:"type"`
	Format     string             `json:"format"`
	Properties map[string]*Schema `json:"properties"`
	Additional *Schema            `json:"additionalProperties"`
	Items      *Schema            `json:"items"`
	Required   []string           `json:"required"`
	Default    any                `json:"default"`
	Enum       []any              `json:"enum"`
	Pattern    string             `json:"pattern"`

	MinLength     *int     `json:"minLength"`
	MaxLength     *int     `json:"maxLength"`
	MinItems      *int     `json:"minItems"`
	MaxItems      *int     `json:"maxItems"`
	MaxProperties *int     `json:"maxProperties"`
	Minimum       *float64 `json:"minimum"`
	Maximum       *float64 `json:"maximum"`

	OneOf []*Schema `json:"oneOf"`
	AnyOf []*Schema `json:"anyOf"`
	Not   *Schema   `json:"not"`

	ListType string   `json:"x-kubernetes-list-type"`
	ListKeys []string `json:"x-kubernetes-list-map-keys"`
	MapType  string   `json:"x-kubernetes-map-type"`

	// Scope is that of the kind, at the top.
	Scope string `json:"x-scope"`

	pattern *regexp.Regexp
}

var load = sync.OnceValue(func() map[string]*Schema {
	var all map[string]*Schema
	err := json.Unmarshal(definitions, &all)
	for _, s := range all {
		if err == nil {
			err = s.compile()
		}
	}
	if err != nil {
		// They are part of the program, and tested with it.
		panic(fmt.Sprintf("schema: the built-in definitions: %v", err))
	}
	return all
})

func (s *Schema) compile() (err error) {
	if s == nil {
		return nil
	}
	if s.Pattern != "" {
		if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
			return err
		}
	}
	for _, p := range s.Properties {
		if err := p.compile(); err != nil {
			return err
		}
	}
	for _, list := range [...][]*Schema{{s.Additional, s.Items, s.Not}, s.OneOf, s.AnyOf} {
		for _, sub := range list {
			if err := sub.compile(); err != nil {
				return err
			}
		}
	}
	return nil
}

// For returns the schema of a kind of Gateway API, as in "HTTPRoute" and "v1",
// or nil if there is none such.
func For(kind, version string) *Schema { return load()[kind+"/"+version] }

// Known says whether there is such a kind in any version.
func Known(kind string) bool {
	for _, v := range [...]string{"v1", "v1beta1", "v1alpha3", "v1alpha2"} {
		if For(kind, v) != nil {
			return true
		}
	}
	return false
}

// Namespaced says whether objects of this kind are in a namespace.
func (s *Schema) Namespaced() bool { return s.Scope == "Namespaced" }
