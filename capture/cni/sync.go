package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// settle is how long a configuration that makes no sense is taken for one that is being written.
const settle = 2 * time.Second

// retry is how soon what went wrong is tried again although nothing has changed.
const retry = 5 * time.Second

// sync makes the files what they should be. It returns when it wants to be called again, 0 = at the next change.
func (i *Installer) sync(now time.Time) (again time.Duration) {
	status := Status{Writes: i.Status().Writes}
	problem := func(err error) { status.Problems = append(status.Problems, err.Error()) }

	// First the plugin: a chain that names one that is not there lets no pod start at all.
	if err := i.installBinary(); err != nil {
		problem(fmt.Errorf("install %s: %w", filepath.Join(i.BinDir, PluginName), err))
	} else {
		wait, err := i.syncChain(now, &status)
		if err != nil {
			problem(fmt.Errorf("install the chain in %s: %w", i.ConfDir, err))
		}
		again = wait
	}

	i.mu.Lock()
	last := i.status
	i.status = status
	i.mu.Unlock()
	i.report(last, status)
	if again == 0 && len(status.Problems) > 0 {
		return retry
	}
	return again
}

// report logs what has changed, and nothing twice.
func (i *Installer) report(last, now Status) {
	for _, p := range now.Problems {
		if !slices.Contains(last.Problems, p) {
			i.Logger.Warn("CNI plugin: " + p)
		}
	}
	switch {
	case now.Installed && (!last.Installed || last.Source != now.Source || last.Chain != now.Chain):
		i.Logger.Info("CNI plugin is last in the node's chain", "chain", filepath.Join(i.ConfDir, now.Chain), "source", now.Source)
	case last.Installed && !now.Installed:
		i.Logger.Warn("CNI plugin is in no chain: pods are captured once they run")
	case now.Writes > last.Writes:
		i.Logger.Info("CNI chain was written again", "chain", filepath.Join(i.ConfDir, now.Chain), "writes", now.Writes)
	}
}

// chain is our chain as it is in the directory.
type chain struct {
	name    string // "" = none
	content []byte
	mode    fs.FileMode
	source  string
}

// choice is the configuration that our chain is to be made from.
type choice struct {
	source  string // "" = none
	network *network
	mode    fs.FileMode
}

func (i *Installer) syncChain(now time.Time, status *Status) (again time.Duration, err error) {
	others, err := configurations(i.ConfDir)
	if err != nil {
		return 0, err
	}
	have := i.currentChain()
	status.Chain, status.Source = have.name, have.source
	pick, again := i.choose(now, others, have, status)
	switch {
	case again > 0: // somebody is writing: what there is stays
	case pick.source == "" && have.name == "":
	case pick.source == "":
		again, err = i.write(now, status, func() error { return i.removeChains("") })
		status.Chain, status.Source = "", ""
	default:
		again, err = i.apply(now, pick, others, have, status)
	}
	if err == nil {
		status.Installed = status.Source != "" && (len(others) == 0 || status.Chain < others[0])
	}
	return again, err
}

// currentChain reads our chain. One that cannot be read counts as one that is wrong.
func (i *Installer) currentChain() chain {
	for _, name := range ownNames {
		content, mode, err := readFile(filepath.Join(i.ConfDir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return chain{name: name, content: content, mode: mode, source: sourceOf(content)}
	}
	return chain{}
}

// choose picks the first configuration that makes sense, as the runtime would. containerd takes the first or none,
// CRI-O skips what makes no sense. While one that may be the runtime's choice is being written, or the one that we
// have taken is broken, the choice stays what it was: again is more than 0.
func (i *Installer) choose(now time.Time, others []string, have chain, status *Status) (pick choice, again time.Duration) {
	broken := make(map[string]time.Time)
	defer func() { i.broken = broken }()
	for _, name := range others {
		n, mode, err := loadNetwork(i.ConfDir, name)
		switch {
		case errors.Is(err, errNoNetwork), errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			since, known := i.broken[name]
			if !known {
				since = now
			}
			broken[name] = since
			rest := settle - now.Sub(since)
			if rest <= 0 {
				status.Problems = append(status.Problems, fmt.Sprintf("%s %v; it is left alone", filepath.Join(i.ConfDir, name), err))
			}
			if rest <= 0 && name == have.source {
				rest = interval // until it changes
			}
			again = max(again, rest)
			continue
		}
		return choice{source: name, network: n, mode: mode}, again
	}
	return choice{}, again
}

// apply puts our chain in place.
func (i *Installer) apply(now time.Time, pick choice, others []string, have chain, status *Status) (again time.Duration, err error) {
	name, err := ownName(others)
	if err != nil {
		return 0, err
	}
	content, err := pick.network.chain(entry{
		Type: PluginName, Socket: i.Socket, ExcludeNamespaces: i.ExcludeNamespaces, Source: pick.source,
	})
	if err != nil {
		return 0, err
	}
	if have.name == name && bytes.Equal(have.content, content) && have.mode == pick.mode {
		return 0, nil
	}
	again, err = i.write(now, status, func() error {
		err := replace(filepath.Join(i.ConfDir, name), pick.mode, func(f *os.File) error {
			_, err := f.Write(content)
			return err
		})
		if err != nil {
			return err
		}
		status.Chain, status.Source = name, pick.source
		return i.removeChains(name)
	})
	return again, err
}

// write does what changes the directory, unless that has to wait.
func (i *Installer) write(now time.Time, status *Status, do func() error) (again time.Duration, err error) {
	if wait := i.pace.delay(now); wait > 0 {
		return wait, nil
	}
	i.pace.wrote(now)
	if err := do(); err != nil {
		return 0, err
	}
	status.Writes++
	return 0, nil
}

// removeChains removes all chains of ours but one.
func (i *Installer) removeChains(keep string) error {
	var err error
	for _, name := range ownNames {
		if name != keep {
			err = errors.Join(err, removeIfThere(filepath.Join(i.ConfDir, name)))
		}
	}
	return err
}

// Uninstall removes everything of ours: the runtime is left with the configuration that it had before. Run must have
// returned. Calling it again does nothing.
func (i *Installer) Uninstall() error {
	// First the chain: while the runtime reads it, the plugin has to be there.
	err := errors.Join(
		i.removeChains(""), removeUnfinished(i.ConfDir),
		removeIfThere(filepath.Join(i.BinDir, PluginName)), removeUnfinished(i.BinDir),
	)
	i.binary = fingerprint{}
	i.mu.Lock()
	i.status = Status{Writes: i.status.Writes}
	i.mu.Unlock()
	if err != nil {
		return fmt.Errorf("remove the CNI plugin: %w; remove by hand what is left", err)
	}
	return nil
}
