package h2

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// tool finds a client that not every machine has.
func tool(t *testing.T, name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return path
}

func TestCurl(t *testing.T) {
	curl := tool(t, "curl")
	big := make([]byte, 3<<20)
	rand.Read(big)
	handler := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/big":
			w.Write(big)
		default:
			h := sha256.New()
			io.Copy(h, r.Body)
			fmt.Fprintf(w, "%x", h.Sum(nil))
		}
	}
	for name, args := range map[string][]string{
		"h2c": {"--http2-prior-knowledge", "http://" + plain(t, &Server{}, handler)},
		"tls": {"--http2", "-k", "https://" + secure(t, &Server{}, handler)},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			run := func(in []byte, path string, more ...string) []byte {
				cmd := exec.CommandContext(ctx, curl, append(append([]string{"-sS"}, more...), args[:len(args)-1]...)...)
				cmd.Args = append(cmd.Args, args[len(args)-1]+path)
				cmd.Stdin = bytes.NewReader(in)
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("curl: %v", err)
				}
				return out
			}
			if out := run(nil, "/big"); !bytes.Equal(out, big) {
				t.Errorf("curl got %d bytes, of %d", len(out), len(big))
			}
			sum := sha256.Sum256(big)
			if out := run(big, "/up", "-T", "-"); string(out) != hex.EncodeToString(sum[:]) {
				t.Errorf("the upload's sum is %s", out)
			}
			if out := run(big, "/up", "--data-binary", "@-", "-H", "Expect: 100-continue"); string(out) != hex.EncodeToString(sum[:]) {
				t.Errorf("the upload's sum with 100-continue is %s", out)
			}
		})
	}
}

// TestH2load lets nghttp2's client ask as fast as it can.
func TestH2load(t *testing.T) {
	bin := tool(t, "h2load")
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := secure(t, &Server{Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			io.Copy(w, r.Body)
			return
		}
		io.WriteString(w, strings.Repeat("x", len(r.URL.Path)))
	})
	for _, args := range [][]string{
		{"-n", "20000", "-c", "3", "-m", "250", "https://" + addr + "/"},
		{"-n", "500", "-c", "4", "-m", "20", "-d", body, "https://" + addr + "/"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		out, err := exec.CommandContext(ctx, bin, args...).CombinedOutput()
		cancel()
		if err != nil {
			t.Fatalf("h2load: %v\n%s", err, out)
		}
		if want := args[1] + " succeeded, 0 failed, 0 errored, 0 timeout"; !regexp.MustCompile(want).Match(out) {
			t.Errorf("h2load does not say %q:\n%s", want, out)
		}
	}
}

// health is a gRPC service that shows trailers and streams.
type health struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (health) Check(ctx context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "there", "x-bin-bin", "\x00\xff"))
	if r.Service == "none" {
		return nil, status.Error(codes.NotFound, "no such service: ü")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (health) Watch(r *grpc_health_v1.HealthCheckRequest, s grpc_health_v1.Health_WatchServer) error {
	for range 100 {
		if err := s.Send(&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// TestGRPC lets gRPC's client talk to gRPC's handler through this server.
func TestGRPC(t *testing.T) {
	gs := grpc.NewServer()
	defer gs.Stop()
	grpc_health_v1.RegisterHealthServer(gs, health{})
	addr := plain(t, &Server{}, gs.ServeHTTP)
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	hc := grpc_health_v1.NewHealthClient(cc)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			var trailer metadata.MD
			res, err := hc.Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.Trailer(&trailer))
			if err != nil || res.Status != grpc_health_v1.HealthCheckResponse_SERVING {
				t.Errorf("Check: %v, %v", res, err)
			}
			if v := trailer["x-trailer"]; len(v) != 1 || v[0] != "there" || trailer["x-bin-bin"][0] != "\x00\xff" {
				t.Errorf("the trailer is %v", trailer)
			}
		})
	}
	wg.Wait()
	_, err = hc.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "none"})
	if s := status.Convert(err); s.Code() != codes.NotFound || s.Message() != "no such service: ü" {
		t.Errorf("Check of none: %v", err)
	}
	wctx, stop := context.WithCancel(ctx)
	ws, err := hc.Watch(wctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := ws.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if _, err := ws.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after cancelling: %v", err)
	}
}
