// Command image writes a container image archive holding one static binary,
// in the format of `docker save`, without a container daemon.
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

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func main() {
	binary := flag.String("binary", "", "static Linux binary to pack as /adit")
	tag := flag.String("tag", "adit:dev", "name and tag of the image")
	out := flag.String("out", "", "archive to write")
	flag.Parse()
	if *binary == "" || *out == "" {
		flag.Usage()
		os.Exit(2)
	}
	if err := write(*binary, *tag, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(binary, tag, out string) error {
	ref, err := name.NewTag(tag)
	if err != nil {
		return err
	}
	img, err := build(binary)
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

func build(binary string) (v1.Image, error) {
	if err := static(binary); err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	contents, err := layer(binary)
	if err != nil {
		return nil, err
	}
	opened, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(contents)), nil
	})
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, opened)
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", runtime.GOARCH
	cf.Config.Entrypoint = []string{"/adit"}
	cf.Config.Cmd = []string{"agent", "--config", "/etc/adit/agent.yaml"}
	return mutate.ConfigFile(img, cf)
}

// layer is a tar of /adit alone. Times are zero so that the same binary gives
// the same digest.
func layer(binary string) ([]byte, error) {
	body, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err = w.WriteHeader(&tar.Header{Name: "adit", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(body))})
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
