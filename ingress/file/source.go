package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/adit-mesh/adit/ingress"
	"github.com/adit-mesh/adit/ingress/gateway"
)

// Config says what is read, and what of it is served.
type Config struct {
	// Dir is the directory: its files *.yaml, *.yml and *.json are read, those
	// of its subdirectories and hidden ones are not.
	Dir string
	// Gateway are the options of the translator; Bind is set here.
	Gateway gateway.Options
	// Class is a GatewayClass that is there without being in a file. "" = adit.
	Class string
	// Addresses are those by which others reach this machine, for the status of
	// Gateways without spec.addresses. nil = those of its interfaces.
	Addresses func() []netip.Addr
	Logger    *slog.Logger // nil = discard
}

// background is for the logger, which wants a context.
var background = context.Background()

const (
	defaultClass = "adit"

	// settle is how long a burst of changes is waited out, and settleMost how
	// long at most.
	settle     = 50 * time.Millisecond
	settleMost = 500 * time.Millisecond
	// look is how often the directory is looked at without being told: network
	// file systems tell nothing. Without inotify it is unwatched.
	look      = 15 * time.Second
	unwatched = 2 * time.Second
	// lookWriting is how soon a file is looked at again that was being written.
	lookWriting = time.Second
)

// Source reads a directory. Its methods may be called at any time from any
// goroutine.
type Source struct {
	cfg        Config
	log        *slog.Logger
	translator *gateway.Translator
	binds      binds

	// The following is Run's alone.
	reader  reader
	attach  attachments
	made    map[key]object
	table   table
	config  *ingress.Config
	applied ingress.Applied

	again chan struct{} // one-slot edge: recheck is set

	mu       sync.Mutex // guards all below
	problems []Problem
	statuses map[key]runtime.Object
	recheck  func() ingress.Applied // nil = nothing has been told since Run last looked
}

// New prepares a Source. Nothing is read before Run. The error is of a
// configuration that cannot work.
func New(cfg Config) (*Source, error) {
	if cfg.Dir == "" {
		return nil, errors.New("no directory of Gateway API files is configured")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir, cfg.Class = dir, cmp.Or(cfg.Class, defaultClass)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Addresses == nil {
		cfg.Addresses = hostAddresses
	}
	s := &Source{
		cfg: cfg, log: cfg.Logger,
		reader: reader{dir: dir, files: make(map[string]*content)},
		attach: attachments{dir: dir, last: make(map[key]map[string][]byte)},
		made:   make(map[key]object),
		again:  make(chan struct{}, 1),
		table:  table{entries: make(map[key]*entry)},
		binds:  binds{gateways: make(map[types.NamespacedName]*gatewayv1.Gateway)},
	}
	options := cfg.Gateway
	options.Bind = s.binds.bind
	s.translator = gateway.New(options)
	return s, nil
}

// Run reads the directory and applies what is in it, now and whenever it
// changes, until ctx ends; then it returns nil. It returns an error only if the
// directory cannot be read at the beginning. apply is called on Run's goroutine.
func (s *Source) Run(ctx context.Context, apply func(*ingress.Config) ingress.Applied) error {
	w, err := newWatcher(s.cfg.Dir)
	every := look
	var changed <-chan struct{}
	if err != nil {
		s.log.Warn("the directory is not watched but looked at every 2 s", "dir", s.cfg.Dir, "error", err)
		every = unwatched
	} else {
		defer w.close()
		changed, s.reader.busy = w.changed, w.busy
		w.set(s.directories(nil))
	}
	if _, err := os.ReadDir(s.cfg.Dir); err != nil {
		return fmt.Errorf("gateway configuration: %w", err)
	}
	for {
		waiting, paths := s.update(apply)
		next := every
		if waiting {
			next = lookWriting
		}
		if w != nil {
			if w.set(s.directories(paths)) {
				// What is watched only now may have changed since it was read.
				next = 0
			}
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		case <-s.again:
			t.Stop()
		case <-changed:
			t.Stop()
			if !s.settled(ctx, changed) {
				return nil
			}
		}
	}
}

// Check reads the directory once, and serves nothing: Problems and Statuses tell
// what would come of it if every socket could be had. It is instead of Run.
func (s *Source) Check() error {
	if _, err := os.ReadDir(s.cfg.Dir); err != nil {
		return fmt.Errorf("gateway configuration: %w", err)
	}
	s.update(func(*ingress.Config) ingress.Applied { return ingress.Applied{} })
	return nil
}

// Recheck tells that what became of the configuration is not what apply returned
// any more: a socket could be had later. It does not block. now is asked on the
// goroutine that apply is called on, so its answer is never older than apply's.
func (s *Source) Recheck(now func() ingress.Applied) {
	s.mu.Lock()
	s.recheck = now
	s.mu.Unlock()
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// settled waits for a burst of changes to end, and reports false if ctx did.
func (s *Source) settled(ctx context.Context, changed <-chan struct{}) bool {
	end := time.NewTimer(settleMost)
	defer end.Stop()
	for {
		quiet := time.NewTimer(settle)
		select {
		case <-ctx.Done():
			quiet.Stop()
			return false
		case <-end.C:
			quiet.Stop()
			return true
		case <-quiet.C:
			return true
		case <-changed:
			quiet.Stop()
		}
	}
}

// directories are those to be watched: all of the files' own, and of each other
// file only what concerns it.
func (s *Source) directories(attached []string) map[string]map[string]bool {
	dirs := map[string]map[string]bool{s.cfg.Dir: nil}
	want(dirs, s.cfg.Dir)
	for name, c := range s.reader.files {
		if c.link {
			want(dirs, filepath.Join(s.cfg.Dir, name))
		}
	}
	for _, path := range attached {
		want(dirs, path)
	}
	return dirs
}

// update reads what changed and serves it.
func (s *Source) update(apply func(*ingress.Config) ingress.Applied) (waiting bool, attached []string) {
	waiting, err := s.reader.read()
	found, bad := s.reader.objects()
	if err != nil {
		bad = append(bad, Problem{Message: fmt.Sprintf("%v; what was read before stays in force", err)})
	}
	objects := make(map[key]object, len(found))
	for k, d := range found {
		o, paths, wrong := s.attach.attach(d)
		objects[k] = o
		attached, bad = append(attached, paths...), append(bad, wrong...)
	}
	s.attach.forget(found)
	controller := gateway.DefaultControllerName
	if names := s.cfg.Gateway.ControllerNames; len(names) > 0 {
		controller = names[0]
	}
	implied(objects, s.made, s.cfg.Class, controller)
	s.note(bad)

	changes := s.table.put(objects)
	for _, c := range changes {
		s.tell(c)
	}
	s.serve(apply, len(changes) > 0)
	return waiting, attached
}

// tell passes a change on.
func (s *Source) tell(c change) {
	name := types.NamespacedName{Namespace: c.key.namespace, Name: c.key.name}
	if c.object == nil {
		if c.key.kind == "Gateway" {
			delete(s.binds.gateways, name)
		}
		s.translator.Delete(c.key.kind, c.key.namespace, c.key.name)
		return
	}
	if g, ok := c.object.(*gatewayv1.Gateway); ok {
		s.binds.gateways[name] = g
	}
	s.translator.Set(c.object)
}

// serve builds a configuration and applies it if it is another, or if not all of
// the last one could be: a port that was taken may be free now.
func (s *Source) serve(apply func(*ingress.Config) ingress.Applied, changed bool) {
	s.mu.Lock()
	recheck := s.recheck
	s.recheck = nil
	s.mu.Unlock()
	if recheck != nil {
		s.applied = recheck()
	}
	failed := len(s.applied.Failed)+len(s.applied.NoQUIC) > 0
	if s.config != nil && !changed && !failed && recheck == nil {
		return
	}
	config := s.build()
	if config != s.config || failed && recheck == nil {
		s.applied = apply(config)
		s.config = config
	}
	s.publish(s.translator.Statuses(s.applied, s.binds.placements(s.cfg.Addresses)))
}

func (s *Source) build() *ingress.Config {
	for {
		s.binds.begin()
		config, _ := s.translator.Build()
		// It ends: who has a socket and asks for it keeps it.
		if !s.binds.settle() {
			return config
		}
	}
}

// note keeps what is wrong, and says what is new of it.
func (s *Source) note(bad []Problem) {
	slices.SortStableFunc(bad, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	s.mu.Lock()
	before := make(map[Problem]bool, len(s.problems))
	for _, p := range s.problems {
		before[p] = true
	}
	s.problems = bad
	s.mu.Unlock()
	for _, p := range bad {
		if before[p] {
			delete(before, p)
			continue
		}
		level := slog.LevelError
		if p.Harmless {
			level = slog.LevelInfo
		}
		s.log.Log(background, level, p.String(), "dir", s.cfg.Dir)
	}
	if len(bad) == 0 && len(before) > 0 {
		s.log.Info("the files are good again", "dir", s.cfg.Dir)
	}
}

// Problems are all that is wrong with the files as they are, in their order.
func (s *Source) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// Statuses are the objects that have a status, with it: GatewayClasses,
// Gateways, ListenerSets, routes and policies, by kind and name. They are not to
// be changed.
func (s *Source) Statuses() []runtime.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(s.statuses), func(a, b key) int { return cmp.Compare(a.String(), b.String()) })
	out := make([]runtime.Object, len(keys))
	for i, k := range keys {
		out[i] = s.statuses[k]
	}
	return out
}
