// Command image writes a container image archive holding static binaries and
// nothing else, in the format of `docker save`, without a container daemon.
//
//	image -tag adit:dev -out adit.tar -cmd "agent --config /etc/adit/agent.yaml" /adit=bin/adit /adit-cni=bin/adit-cni
//
// The first file is the entry point.
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	tag := flag.String("tag", "adit:dev", "name and tag of the image")
	out := flag.String("out", "", "archive to write")
	cmd := flag.String("cmd", "", "arguments of the entry point, separated by spaces")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: image -out ARCHIVE [-tag NAME:TAG] [-cmd ARGUMENTS] /PATH=BINARY...")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *out == "" || flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(flag.Args(), strings.Fields(*cmd), *tag, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(files, cmd []string, tag, out string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	img, err := build(files, cmd)
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(out, ref, img); err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s %s\n", filepath.Base(out), ref, digest)
	return nil
}

// build takes the files as PATH=BINARY, where PATH is that in the image.
func build(files, cmd []string) (v1.Image, error) {
	var paths []string
	var layers []v1.Layer
	for _, file := range files {
		path, binary, ok := strings.Cut(file, "=")
		if !ok || !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("%q: want /PATH=BINARY", file)
		}
		if err := static(binary); err != nil {
			return nil, fmt.Errorf("%s: %w", binary, err)
		}
		contents, err := layer(path, binary)
		if err != nil {
			return nil, err
		}
		// One layer each: a file that did not change is not loaded again.
		opened, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(contents)), nil
		})
		if err != nil {
			return nil, err
		}
		paths, layers = append(paths, path), append(layers, opened)
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", runtime.GOARCH
	cf.Config.Entrypoint = paths[:1]
	cf.Config.Cmd = cmd
	return mutate.ConfigFile(img, cf)
}

// layer is a tar of one file. Times are zero so that the same binary gives the
// same digest.
func layer(path, binary string) ([]byte, error) {
	body, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err = w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(path, "/"), Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(body))})
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// static refuses what an empty image could not start: there is no loader in it.
func static(binary string) error {
	f, err := elf.Open(binary)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("needs a dynamic loader; build it with CGO_ENABLED=0")
		}
	}
	return nil
}
