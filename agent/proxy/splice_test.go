package proxy

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

const joinTo = "ADIT_TEST_JOIN_TO"

// TestJoinInTheKernel counts what a joining process reads and writes while 64
// MiB go through it each way: next to nothing, because splice(2) moves the
// bytes from socket to socket.
func TestJoinInTheKernel(t *testing.T) {
	if to := os.Getenv(joinTo); to != "" {
		joinChild(t, to)
		return
	}
	const size = 64 << 20
	seed := [32]byte{1}
	want := sha256.New()
	io.CopyN(want, rand.NewChaCha8(seed), size)

	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	echoed := make(chan error, 1)
	go func() {
		c, err := server.Accept()
		if err != nil {
			echoed <- err
			return
		}
		defer c.Close()
		if _, err := io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}); err != nil {
			echoed <- err
			return
		}
		echoed <- c.(*net.TCPConn).CloseWrite()
	}()

	child := exec.Command("/proc/self/exe", "-test.run=^TestJoinInTheKernel$")
	child.Env = append(os.Environ(), joinTo+"="+server.Addr().String())
	child.Stderr = os.Stderr
	in, _ := child.StdinPipe()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); child.Wait() }()
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child's address: %v", err)
	}

	c, err := net.Dial("tcp", strings.TrimSpace(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	before := userCopies(t, child.Process.Pid)
	go func() {
		io.CopyN(c, rand.NewChaCha8(seed), size)
		c.(*net.TCPConn).CloseWrite()
	}()
	got := sha256.New()
	n, err := io.Copy(got, c)
	if err != nil || n != size || string(got.Sum(nil)) != string(want.Sum(nil)) {
		t.Fatalf("%d of %d bytes came back, or other ones: %v", n, size, err)
	}
	if err := <-echoed; err != nil {
		t.Fatalf("server: %v", err)
	}
	if copied := userCopies(t, child.Process.Pid) - before; copied > 64<<10 {
		t.Errorf("the joining process itself read and wrote %d bytes of %d", copied, 2*size)
	}
}

// joinChild joins one connection to addr and stays until its input ends.
func joinChild(t *testing.T, addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fmt.Println(l.Addr())
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var pipes pipePool
	if err := newJoint(a.(*net.TCPConn), b.(*net.TCPConn), &pipes).run(); err != nil {
		t.Errorf("join: %v", err)
	}
	io.Copy(io.Discard, os.Stdin)
}

// userCopies is how many bytes a process has moved by read(2), write(2) and
// their kin, on any file.
func userCopies(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if k == "rchar" || k == "wchar" {
			n, err := strconv.Atoi(v)
			if err != nil {
				t.Fatal(err)
			}
			total += n
		}
	}
	return total
}
