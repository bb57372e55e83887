package cni

//lint:file-ignore SA1019 containerd and CRI-O read files of one plugin by these deprecated functions.

import (
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
)

// asRuntime reads a configuration of that name as container runtimes do.
func asRuntime(name string, content []byte) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(name) == ".conflist" {
		return libcni.ConfListFromBytes(content)
	}
	single, err := libcni.ConfFromBytes(content)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(single)
}

// asRuntimeFile is asRuntime with the plugins of the list's directory.
func asRuntimeFile(path string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(path) == ".conflist" {
		return libcni.ConfListFromFile(path)
	}
	single, err := libcni.ConfFromFile(path)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(single)
}
