package cakube

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/rest"
)

// apiServer keeps the few kinds that the CA uses, in memory, with the parts of
// the API's contract that the CA builds on: one create wins, an update needs
// the resourceVersion that it read, watches tell of everything from one on.
type apiServer struct {
	http *httptest.Server

	mu       sync.Mutex // guards the fields below
	version  int
	objects  map[string]object // by resource/namespace/name
	events   []event
	changed  chan struct{} // closed and replaced at every event
	tokens   map[string]authenticationv1.TokenReviewStatus
	forbid   map[string]bool // "verb resource"
	reviews  int
	requests map[string]int // by "verb resource"
}

type object interface {
	runtime.Object
	metav1.Object
}

type event struct {
	version  int
	resource string
	kind     string // ADDED, MODIFIED, DELETED
	object   object
}

func startAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{
		objects: make(map[string]object), changed: make(chan struct{}),
		tokens: make(map[string]authenticationv1.TokenReviewStatus),
		forbid: make(map[string]bool), requests: make(map[string]int),
	}
	s.http = httptest.NewServer(s)
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

func (s *apiServer) config() *rest.Config {
	return &rest.Config{Host: s.http.URL, QPS: 1000, Burst: 1000}
}

func (s *apiServer) deny(verb, resource string, deny bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forbid[verb+" "+resource] = deny
}

func (s *apiServer) count(verb, resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[verb+" "+resource]
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.URL.Path == "/apis/authentication.k8s.io/v1/tokenreviews" {
		s.review(w, body)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
	var namespace, resource, name string
	switch {
	case parts[0] == "namespaces" && len(parts) >= 3:
		namespace, resource = parts[1], parts[2]
		if len(parts) > 3 {
			name = parts[3]
		}
	default:
		resource = parts[0]
	}
	query := r.URL.Query()
	verb := map[string]string{"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[r.Method]
	switch {
	case verb == "get" && query.Get("watch") != "":
		verb = "watch"
	case verb == "get" && name == "":
		verb = "list"
	}
	s.mu.Lock()
	s.requests[verb+" "+resource]++
	denied := s.forbid[verb+" "+resource]
	s.mu.Unlock()
	gr := schema.GroupResource{Resource: resource}
	if denied {
		fail(w, apierrors.NewForbidden(gr, name, fmt.Errorf("the test says so")))
		return
	}
	switch verb {
	case "list":
		s.list(w, resource, namespace, query.Get("fieldSelector"))
	case "watch":
		s.watch(w, r, resource, namespace, query.Get("fieldSelector"))
	default:
		obj, err := s.do(verb, gr, namespace, name, body)
		if err != nil {
			fail(w, err)
			return
		}
		reply(w, obj)
	}
}

func (s *apiServer) do(verb string, gr schema.GroupResource, namespace, name string, body []byte) (runtime.Object, error) {
	var in object
	if verb == "create" || verb == "update" {
		decoded, _, err := codecs.UniversalDeserializer().Decode(body, nil, nil)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		in = decoded.(object)
		name = in.GetName()
	}
	key := gr.Resource + "/" + namespace + "/" + name
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.objects[key]
	switch {
	case verb == "create" && ok:
		return nil, apierrors.NewAlreadyExists(gr, name)
	case verb != "create" && !ok:
		return nil, apierrors.NewNotFound(gr, name)
	}
	switch verb {
	case "get":
		return old.DeepCopyObject(), nil
	case "create":
		in.SetNamespace(namespace)
		if in.GetUID() == "" {
			in.SetUID(types.UID("uid-" + strconv.Itoa(s.version)))
		}
		s.putLocked(gr.Resource, key, "ADDED", in)
		return in.DeepCopyObject(), nil
	case "update":
		if in.GetResourceVersion() != old.GetResourceVersion() {
			return nil, apierrors.NewConflict(gr, name, fmt.Errorf("the object has been modified"))
		}
		s.putLocked(gr.Resource, key, "MODIFIED", in)
		return in.DeepCopyObject(), nil
	case "patch":
		before, err := json.Marshal(old)
		if err != nil {
			return nil, err
		}
		after, err := strategicpatch.StrategicMergePatch(before, body, old)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		next := old.DeepCopyObject().(object)
		if err := json.Unmarshal(after, next); err != nil {
			return nil, err
		}
		s.putLocked(gr.Resource, key, "MODIFIED", next)
		return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"}}, nil
	case "delete":
		delete(s.objects, key)
		s.emitLocked(gr.Resource, "DELETED", old)
		return &metav1.Status{Status: metav1.StatusSuccess}, nil
	}
	return nil, apierrors.NewMethodNotSupported(gr, verb)
}

func (s *apiServer) putLocked(resource, key, kind string, obj object) {
	obj.SetResourceVersion(strconv.Itoa(s.version + 1))
	s.objects[key] = obj
	s.emitLocked(resource, kind, obj)
}

func (s *apiServer) emitLocked(resource, kind string, obj object) {
	s.version++
	s.events = append(s.events, event{s.version, resource, kind, obj.DeepCopyObject().(object)})
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *apiServer) review(w http.ResponseWriter, body []byte) {
	decoded, _, err := codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	review := decoded.(*authenticationv1.TokenReview)
	s.mu.Lock()
	s.reviews++
	review.Status = s.tokens[review.Spec.Token]
	s.mu.Unlock()
	reply(w, review)
}

// selected reports whether an object matches a field selector, as the API
// server knows its fields.
func selected(obj object, namespace, selector string) bool {
	if namespace != "" && obj.GetNamespace() != namespace {
		return false
	}
	set := fields.Set{"metadata.name": obj.GetName(), "metadata.namespace": obj.GetNamespace()}
	if pod, ok := obj.(*corev1.Pod); ok {
		set["spec.nodeName"] = pod.Spec.NodeName
		set["spec.serviceAccountName"] = pod.Spec.ServiceAccountName
		set["status.phase"] = string(pod.Status.Phase)
	}
	return fields.ParseSelectorOrDie(selector).Matches(set)
}

func (s *apiServer) list(w http.ResponseWriter, resource, namespace, selector string) {
	s.mu.Lock()
	meta := metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}
	var items []object
	for key, obj := range s.objects {
		if strings.HasPrefix(key, resource+"/") && selected(obj, namespace, selector) {
			items = append(items, obj.DeepCopyObject().(object))
		}
	}
	s.mu.Unlock()
	var list runtime.Object
	switch resource {
	case "pods":
		l := &corev1.PodList{ListMeta: meta}
		for _, i := range items {
			l.Items = append(l.Items, *i.(*corev1.Pod))
		}
		list = l
	case "secrets":
		l := &corev1.SecretList{ListMeta: meta}
		for _, i := range items {
			l.Items = append(l.Items, *i.(*corev1.Secret))
		}
		list = l
	case "configmaps":
		l := &corev1.ConfigMapList{ListMeta: meta}
		for _, i := range items {
			l.Items = append(l.Items, *i.(*corev1.ConfigMap))
		}
		list = l
	}
	reply(w, list)
}

func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, resource, namespace, selector string) {
	if r.URL.Query().Get("sendInitialEvents") != "" { // an API server without WatchList
		fail(w, apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil))
		return
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		s.mu.Lock()
		var lines []byte
		for _, e := range s.events {
			if e.version <= from || e.resource != resource || !selected(e.object, namespace, selector) {
				continue
			}
			raw, err := runtime.Encode(codecs.LegacyCodec(corev1.SchemeGroupVersion), e.object)
			if err != nil {
				panic(err)
			}
			line, _ := json.Marshal(map[string]any{"type": e.kind, "object": json.RawMessage(raw)})
			lines = append(append(lines, line...), '\n')
		}
		from = s.version
		changed := s.changed
		s.mu.Unlock()
		if len(lines) > 0 {
			if _, err := w.Write(lines); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func reply(w http.ResponseWriter, obj runtime.Object) {
	w.Header().Set("Content-Type", "application/json")
	if meta, ok := obj.(*metav1.PartialObjectMetadata); ok {
		json.NewEncoder(w).Encode(meta)
		return
	}
	gv := corev1.SchemeGroupVersion
	if _, ok := obj.(*authenticationv1.TokenReview); ok {
		gv = authenticationv1.SchemeGroupVersion
	}
	raw, err := runtime.Encode(codecs.LegacyCodec(gv), obj)
	if err != nil {
		panic(err)
	}
	w.Write(raw)
}

func fail(w http.ResponseWriter, err error) {
	status := err.(apierrors.APIStatus).Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(int(status.Code))
	json.NewEncoder(w).Encode(status)
}
