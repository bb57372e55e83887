package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// PluginName is the type of our entry in a chain, and the name of the plugin's file.
const PluginName = "adit-cni"

// entry is our plugin's configuration, as cmd/adit-cni reads it.
type entry struct {
	Type              string   `json:"type"`
	Socket            string   `json:"socket"`
	ExcludeNamespaces []string `json:"excludeNamespaces,omitempty"`
	// Source is the file that the rest of the chain was taken from.
	Source string `json:"source"`
}

// object is a JSON object whose values are kept as they were written: numbers keep their digits, and what we do not
// know is not lost.
type object map[string]json.RawMessage

// network is a network configuration list: what comes before us in the chain.
type network struct {
	fields  object // all but the plugins
	plugins []json.RawMessage
	types   []string // of the plugins
	name    string
	inlined bool // loadOnlyInlinedPlugins
}

// errNoNetwork is a configuration that gives pods no network: no chain for us to be in.
var errNoNetwork = errors.New("configures the loopback interface only")

// parseNetwork reads a network configuration file as libcni does: a .conflist holds a list of plugins, a .conf or
// .json one plugin. Entries of ours are left out.
func parseNetwork(name string, content []byte) (*network, error) {
	n := &network{fields: object{}}
	var err error
	if filepath.Ext(name) == ".conflist" {
		err = n.takeList(content)
	} else {
		err = n.takePlugin(content)
	}
	switch {
	case err != nil:
		return nil, err
	case n.name == "":
		return nil, errors.New(`has no "name"`)
	}
	return n, n.dropOurs()
}

// takePlugin makes a list of a file that is one plugin.
func (n *network) takePlugin(content []byte) error {
	var fields struct {
		Name    string  `json:"name"`
		Version *string `json:"cniVersion"`
	}
	if err := json.Unmarshal(content, &fields); err != nil {
		return fmt.Errorf("is no plugin's configuration: %w", err)
	}
	n.name = fields.Name
	n.plugins = []json.RawMessage{content}
	n.inlined = true
	name, err := json.Marshal(fields.Name)
	if err != nil {
		return err
	}
	n.fields["name"] = name
	if fields.Version != nil {
		n.fields["cniVersion"], err = json.Marshal(*fields.Version)
	}
	return err
}

func (n *network) takeList(content []byte) error {
	if err := json.Unmarshal(content, &n.fields); err != nil {
		return fmt.Errorf("is not a JSON object: %w", err)
	}
	var version string
	if err := errors.Join(n.fields.text("name", &n.name), n.fields.text("cniVersion", &version)); err != nil {
		return err
	}
	if raw, ok := n.fields["plugins"]; ok {
		if err := json.Unmarshal(raw, &n.plugins); err != nil {
			return fmt.Errorf(`"plugins" is not a list: %w`, err)
		}
		delete(n.fields, "plugins")
	}
	switch raw := bytes.ToLower(bytes.Trim(n.fields["loadOnlyInlinedPlugins"], `"`)); string(raw) {
	case "true":
		n.inlined = true
	case "", "false":
	default:
		return fmt.Errorf(`"loadOnlyInlinedPlugins" is %s, neither true nor false`, raw)
	}
	return nil
}

// dropOurs learns the plugins' types, and removes our own: somebody may have made the file from ours.
func (n *network) dropOurs() error {
	kept := n.plugins[:0:0]
	for i, raw := range n.plugins {
		kind, err := pluginType(raw)
		if err != nil {
			return fmt.Errorf("plugin %d %w", i, err)
		}
		if kind != PluginName {
			kept = append(kept, raw)
			n.types = append(n.types, kind)
		}
	}
	n.plugins = kept
	return nil
}

func pluginType(raw json.RawMessage) (string, error) {
	var plugin struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &plugin); err != nil {
		return "", fmt.Errorf("is no plugin's configuration: %w", err)
	}
	if plugin.Type == "" {
		return "", errors.New(`has no "type"`)
	}
	return plugin.Type, nil
}

// text reads a key that holds a string, if it is there.
func (o object) text(key string, into *string) error {
	raw, ok := o[key]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%q is not a string: %s", key, raw)
	}
	return nil
}

// add appends the plugins of the directory that belongs to the list, which newer runtimes load after those in the
// list itself: our place is after them, so they are in the list from now on.
func (n *network) add(raw json.RawMessage) error {
	kind, err := pluginType(raw)
	if err != nil {
		return err
	}
	if kind != PluginName {
		n.plugins = append(n.plugins, raw)
		n.types = append(n.types, kind)
	}
	n.fields["loadOnlyInlinedPlugins"] = json.RawMessage("true")
	return nil
}

// check reports whether there is a chain for us to be last in.
func (n *network) check() error {
	switch {
	case len(n.plugins) == 0:
		return errors.New("has no plugins")
	case !slices.ContainsFunc(n.types, func(kind string) bool { return kind != "loopback" }):
		return errNoNetwork
	}
	return nil
}

// chain renders the list with our entry at its end.
func (n *network) chain(own entry) ([]byte, error) {
	last, err := json.Marshal(own)
	if err != nil {
		return nil, err
	}
	plugins, err := json.Marshal(append(slices.Clone(n.plugins), last))
	if err != nil {
		return nil, err
	}
	all := object{"plugins": plugins}
	for key, value := range n.fields {
		all[key] = value
	}
	out := new(bytes.Buffer)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err = enc.Encode(all)
	return out.Bytes(), err
}

// sourceOf is the file that a chain of ours was made from, "" if it is not one.
func sourceOf(content []byte) string {
	var list struct {
		Plugins []entry `json:"plugins"`
	}
	// Plugins of others may use our keys for values of other types: what could be read is enough.
	_ = json.Unmarshal(content, &list)
	if len(list.Plugins) == 0 || list.Plugins[len(list.Plugins)-1].Type != PluginName {
		return ""
	}
	return list.Plugins[len(list.Plugins)-1].Source
}
