package cakube

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

const (
	// The client's own limit; the server has its own. Agents that start
	// together each cost one or two requests.
	apiQPS, apiBurst = 100, 200
	// apiTimeout bounds one request that is not a watch.
	apiTimeout = 8 * time.Second
)

// scheme knows the few kinds that are used. The clientset of client-go brings
// every API group there is.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(corev1.AddToScheme(s))
	utilruntime.Must(authenticationv1.AddToScheme(s))
	return s
}()

var (
	codecs         = serializer.NewCodecFactory(scheme)
	parameterCodec = runtime.NewParameterCodec(scheme)
)

// LoadREST reads how to reach the API server: from a kubeconfig file and one of
// its contexts ("" = its current one), or, if both are "", from the service
// account of the pod that this runs in, and outside of a pod as kubectl does.
func LoadREST(kubeconfig, context string) (*rest.Config, error) {
	if kubeconfig == "" && context == "" {
		if cfg, err := rest.InClusterConfig(); err == nil {
			return cfg, nil
		}
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = kubeconfig
	cfg, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules,
		&clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("no way to the API server: %w", err)
	}
	return cfg, nil
}

// client speaks with one API group. Its methods add what was asked to errors.
type client struct{ rest.Interface }

func newClient(cfg *rest.Config, gv schema.GroupVersion) (client, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.GroupVersion = &gv
	cfg.APIPath = "/apis"
	if gv.Group == "" {
		cfg.APIPath = "/api"
	}
	cfg.NegotiatedSerializer = codecs.WithoutConversion()
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	if cfg.QPS == 0 {
		cfg.QPS, cfg.Burst = apiQPS, apiBurst
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "adit-ca"
	}
	r, err := rest.RESTClientFor(cfg)
	if err != nil {
		return client{}, fmt.Errorf("client of the API server: %w", err)
	}
	return client{r}, nil
}

func (c client) get(ctx context.Context, resource, namespace, name string, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return c.Get().Namespace(namespace).Resource(resource).Name(name).Do(ctx).Into(into)
}

func (c client) create(ctx context.Context, resource, namespace string, obj, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	r := c.Post()
	if namespace != "" {
		r = r.Namespace(namespace)
	}
	return r.Resource(resource).Body(obj).Do(ctx).Into(into)
}

func (c client) update(ctx context.Context, resource, namespace, name string, obj, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return c.Put().Namespace(namespace).Resource(resource).Name(name).Body(obj).Do(ctx).Into(into)
}

// list lists with a field selector, at most limit objects, as they are now: not
// out of the API server's watch cache.
func (c client) list(ctx context.Context, resource, namespace, fields string, limit int64, into runtime.Object) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return c.Get().Namespace(namespace).Resource(resource).
		VersionedParams(&metav1.ListOptions{FieldSelector: fields, Limit: limit}, parameterCodec).
		Do(ctx).Into(into)
}

// follow keeps store up to date with the selected objects until ctx ends. It
// tells note how each list and each start of a watch went.
func (c client) follow(ctx context.Context, log *slog.Logger, note func(error), resource, namespace, fields string, kind runtime.Object, store cache.ReflectorStore) {
	lw := cache.NewFilteredListWatchFromClient(c, resource, namespace, func(o *metav1.ListOptions) { o.FieldSelector = fields })
	list, watcher := lw.ListWithContextFunc, lw.WatchFuncWithContext
	lw.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		out, err := list(ctx, o)
		note(err)
		return out, err
	}
	lw.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		w, err := watcher(ctx, o)
		if !apierrors.IsInvalid(err) { // an API server that cannot list by watching, which is no trouble
			note(err)
		}
		return w, err
	}
	logger := logr.FromSlogHandler(demoted{log.With("watch", resource).Handler()})
	r := cache.NewReflectorWithOptions(lw, kind, store, cache.ReflectorOptions{Logger: &logger, Name: resource})
	r.RunWithContext(klog.NewContext(ctx, logger))
}

// demoted logs at debug level: a reflector says the same again at every try.
type demoted struct{ slog.Handler }

func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }
