package main

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func compile(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	src := filepath.Join(dir, "main.go")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	cmd := exec.Command("go", "build", "-o", bin, src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

func TestArchiveHoldsTheBinaryAndHowToStartIt(t *testing.T) {
	bin, out := compile(t), filepath.Join(t.TempDir(), "image.tar")
	if err := write([]string{"/adit=" + bin, "/adit-cni=" + bin}, []string{"agent"}, "adit:test", out); err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag("adit:test")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(out, &ref)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(cf.Config.Entrypoint, " "); got != "/adit" {
		t.Errorf("entry point is %q, want /adit", got)
	}
	if got := strings.Join(cf.Config.Cmd, " "); got != "agent" {
		t.Errorf("arguments are %q, want agent", got)
	}
	if cf.OS != "linux" || cf.Architecture == "" {
		t.Errorf("platform is %s/%s: a runtime would refuse the image", cf.OS, cf.Architecture)
	}
	rc := mutate.Extract(img)
	defer rc.Close()
	tr := tar.NewReader(rc)
	want, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	held := map[string]bool{}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		held[h.Name] = true
		if h.Mode&0o111 == 0 || string(got) != string(want) {
			t.Errorf("%s has mode %o and %d bytes; want the executable of %d bytes", h.Name, h.Mode, len(got), len(want))
		}
	}
	if len(held) != 2 || !held["adit"] || !held["adit-cni"] {
		t.Errorf("image holds %v; want adit and adit-cni", held)
	}
}

func TestFilesHaveToBeNamed(t *testing.T) {
	for _, file := range []string{"bin/adit", "adit=bin/adit", "/adit"} {
		if _, err := build([]string{file}, nil); err == nil {
			t.Errorf("%q was taken for a path and a binary", file)
		}
	}
}

func TestSameBinarySameDigest(t *testing.T) {
	bin := compile(t)
	var digests [2]string
	for i := range digests {
		img, err := build([]string{"/adit=" + bin}, nil)
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests[i] = d.String()
	}
	if digests[0] != digests[1] {
		t.Errorf("two builds of one binary differ: %v", digests)
	}
}
