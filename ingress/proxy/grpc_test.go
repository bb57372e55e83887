package proxy

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// echoService has one method of each kind that a proxy can tell apart: unary, and
// both ways at once.
var echoService = grpc.ServiceDesc{
	ServiceName: "test.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Say", Handler: func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		m := new(wrapperspb.StringValue)
		if err := dec(m); err != nil {
			return nil, err
		}
		md, _ := metadata.FromIncomingContext(ctx)
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "1", "x-path", strings.Join(md[":authority"], "")))
		switch m.Value {
		case "fail":
			return nil, status.Error(codes.FailedPrecondition, "as asked for")
		case "hang":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return m, nil
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
		for {
			m := new(wrapperspb.StringValue)
			if err := s.RecvMsg(m); err == io.EOF {
				return status.Error(codes.ResourceExhausted, "over")
			} else if err != nil {
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	}}},
}

func grpcThrough(t *testing.T, conf *upstream.Config, rule *Rule) (*edge, *grpc.ClientConn) {
	t.Helper()
	e := newEdge(t, one(conf), rule)
	e.serveTLS()
	tc := e.h2client.Transport.(*http.Transport).TLSClientConfig.Clone()
	tc.NextProtos = nil
	cc, err := grpc.NewClient(strings.TrimPrefix(e.h2url, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(tc)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return e, cc
}

func TestGRPC(t *testing.T) {
	srv := grpc.NewServer()
	srv.RegisterService(&echoService, nil)
	t.Cleanup(srv.Stop)
	e, cc := grpcThrough(t, h2cBackend(t, srv), &Rule{GRPC: true, Backends: toA().Backends})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()

	say := func(ctx context.Context, s string, o ...grpc.CallOption) (string, error) {
		m := new(wrapperspb.StringValue)
		err := cc.Invoke(ctx, "/test.Echo/Say", wrapperspb.String(s), m, o...)
		return m.Value, err
	}
	var trailer metadata.MD
	if got, err := say(ctx, "hello", grpc.Trailer(&trailer)); err != nil || got != "hello" || len(trailer["x-trailer"]) != 1 {
		t.Fatalf("unary: %q, %v, trailer %v", got, err, trailer)
	}
	if x := e.last(1); x.Trailer.Get("Grpc-Status") != "0" || x.Sent == 0 || x.Received == 0 {
		t.Errorf("record: %+v", x)
	}
	if _, err := say(ctx, "fail", grpc.Trailer(&trailer)); status.Code(err) != codes.FailedPrecondition || len(trailer["x-trailer"]) != 1 {
		t.Errorf("an error of the backend: %v, %v", err, trailer)
	}
	short, done := context.WithTimeout(ctx, 50*time.Millisecond)
	if _, err := say(short, "hang"); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("deadline: %v", err)
	}
	done()
	if err := cc.Invoke(ctx, "/test.Echo/Nothing", wrapperspb.String(""), new(wrapperspb.StringValue)); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}

	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/test.Echo/Chat")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"one", "two", strings.Repeat("x", 100_000)} {
		if err := s.SendMsg(wrapperspb.String(m)); err != nil {
			t.Fatal(err)
		}
		got := new(wrapperspb.StringValue)
		if err := s.RecvMsg(got); err != nil || got.Value != m {
			t.Fatalf("stream: %d bytes came back as %d, %v", len(m), len(got.Value), err)
		}
	}
	_ = s.CloseSend()
	if err := s.RecvMsg(new(wrapperspb.StringValue)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("end of the stream: %v", err)
	}
}

func TestGRPCAnswersOfOurOwn(t *testing.T) {
	for _, c := range []struct {
		name string
		conf *upstream.Config
		rule Rule
		want codes.Code
	}{
		{"no endpoints", &upstream.Config{Key: "a"}, Rule{}, codes.Unavailable},
		{"refused", clusterOf(upstream.H2, closedPort(t)), Rule{}, codes.Unavailable},
		{"timeout", h2cBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })),
			Rule{RequestTimeout: 50 * time.Millisecond}, codes.DeadlineExceeded},
	} {
		c.rule.GRPC, c.rule.Backends = true, toA().Backends
		_, cc := grpcThrough(t, c.conf, &c.rule)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := cc.Invoke(ctx, "/test.Echo/Say", wrapperspb.String(""), new(wrapperspb.StringValue))
		cancel()
		if status.Code(err) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
