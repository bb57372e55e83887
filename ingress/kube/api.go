package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// api talks to the API server. Core kinds are typed, and travel as protobuf;
// all others are taken as they come, so that one object which is not as its
// type says does not hide the rest of its list.
type api struct {
	core, discovery rest.Interface
	dynamic         dynamic.Interface
	params          runtime.ParameterCodec
	http            *http.Client
}

func newAPI(base *rest.Config) (*api, error) {
	scheme := runtime.NewScheme()
	for _, add := range [...]func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, metav1.AddMetaToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	cfg := rest.CopyConfig(base)
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	// What is written is paced where it is written, and what is read is asked for
	// once by each reflector.
	cfg.QPS = -1
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, err
	}
	a := &api{http: client, params: runtime.NewParameterCodec(scheme)}
	for _, group := range [...]struct {
		gv   schema.GroupVersion
		path string
		to   *rest.Interface
	}{{corev1.SchemeGroupVersion, "/api", &a.core}, {discoveryv1.SchemeGroupVersion, "/apis", &a.discovery}} {
		c := rest.CopyConfig(cfg)
		c.GroupVersion, c.APIPath = &group.gv, group.path
		if *group.to, err = rest.RESTClientForConfigAndClient(c, client); err != nil {
			return nil, err
		}
	}
	d := rest.CopyConfig(base)
	d.QPS = -1
	a.dynamic, err = dynamic.NewForConfigAndClient(d, client)
	return a, err
}

// listWatch is how the objects of one kind are had.
type listWatch struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// typed lists and watches a core kind. namespace and field may be "".
func typed[L runtime.Object](a *api, c rest.Interface, resource, namespace, field string, newList func() L) listWatch {
	return requested(func(o metav1.ListOptions) *rest.Request {
		if field != "" {
			o.FieldSelector = field
		}
		// The reflector tries again, and says so.
		return c.Get().MaxRetries(0).NamespaceIfScoped(namespace, namespace != "").Resource(resource).VersionedParams(&o, a.params)
	}, newList)
}

// metadata lists and watches the metadata of a kind that is not namespaced, by
// the path of the API server: all that is used of it.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#metadata-only-fetches
func metadata(a *api, path string) listWatch {
	return requested(func(o metav1.ListOptions) *rest.Request {
		kind := "PartialObjectMetadataList"
		if o.Watch {
			kind = "PartialObjectMetadata"
		}
		as := ";as=" + kind + ";g=meta.k8s.io;v=v1"
		return a.core.Get().MaxRetries(0).SetHeader("Accept", runtime.ContentTypeProtobuf+as+","+runtime.ContentTypeJSON+as).
			AbsPath(path).VersionedParams(&o, a.params)
	}, func() *metav1.PartialObjectMetadataList { return &metav1.PartialObjectMetadataList{} })
}

func requested[L runtime.Object](request func(metav1.ListOptions) *rest.Request, newList func() L) listWatch {
	return listWatch{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			l := newList()
			return l, request(o).Do(ctx).Into(l)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			return request(o).Watch(ctx)
		},
	}
}

// untyped lists and watches any kind.
func untyped(a *api, resource schema.GroupVersionResource) listWatch {
	c := a.dynamic.Resource(resource)
	return listWatch{
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			// A reflector begins with whatever the server has at hand. Which routes
			// there are must not be old news.
			if o.ResourceVersion == "0" {
				o.ResourceVersion = ""
			}
			return c.List(ctx, o)
		},
		watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return c.Watch(ctx, o) },
	}
}

// has asks whether the API server serves a kind. An answer that is not a whole
// API server's is an error: that a kind is absent must be certain, as its objects
// are dropped.
func (a *api) has(ctx context.Context, resource schema.GroupVersionResource) (bool, error) {
	var groups metav1.APIGroupList
	if err := a.getJSON(ctx, "/apis", &groups); err != nil {
		return false, err
	}
	find := func(name string) int {
		return slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == name })
	}
	if find(discoveryv1.GroupName) < 0 {
		return false, fmt.Errorf("/apis lists no %s: is this a Kubernetes API server?", discoveryv1.GroupName)
	}
	i := find(resource.Group)
	if i >= 0 && slices.ContainsFunc(groups.Groups[i].Versions, func(v metav1.GroupVersionForDiscovery) bool { return v.Version == resource.Version }) {
		var resources metav1.APIResourceList
		if err := a.getJSON(ctx, "/apis/"+resource.Group+"/"+resource.Version, &resources); err != nil {
			return false, err
		}
		if slices.ContainsFunc(resources.APIResources, func(r metav1.APIResource) bool { return r.Name == resource.Resource }) {
			return true, nil
		}
	}
	// An API server that starts names its custom kinds only once it has read them,
	// and says 404 of one only when it has.
	_, err := a.dynamic.Resource(resource).List(ctx, metav1.ListOptions{Limit: 1})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err):
		return false, nil
	}
	return false, err
}

func (a *api) getJSON(ctx context.Context, path string, into any) error {
	raw, err := a.core.Get().AbsPath(path).SetHeader("Accept", "application/json").Do(ctx).Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
