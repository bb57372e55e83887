package testbed

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Entry is one line of an agent's access log.
type Entry struct {
	line   string
	fields map[string]any
}

// Get is a field as text, "" if the line lacks it.
func (e Entry) Get(name string) string {
	switch v := e.fields[name].(type) {
	case nil:
		return ""
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// Brief is the line cut down to the fields named, in their order.
func (e Entry) Brief(names ...string) string {
	var parts []string
	for _, name := range names {
		if v := e.Get(name); v != "" {
			parts = append(parts, name+"="+v)
		}
	}
	return strings.Join(parts, " ")
}

// size is how long a file is, 0 if there is none.
func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// awaitEntry waits for a line after offset that match accepts.
func awaitEntry(ctx context.Context, path string, offset int64, match func(Entry) bool) (Entry, error) {
	var found Entry
	err := Poll(ctx, 3*time.Second, func() error {
		entries, err := readAccessLog(path, offset)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if match(e) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("%s: no such line among the %d new ones", filepath.Base(path), len(entries))
	})
	return found, err
}

// readAccessLog returns the whole lines after offset.
func readAccessLog(path string, offset int64) ([]Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	// The last line may be half written.
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	var entries []Entry
	for line := range strings.Lines(string(data)) {
		e := Entry{line: strings.TrimSpace(line)}
		if err := json.Unmarshal([]byte(line), &e.fields); err != nil {
			return nil, fmt.Errorf("%s: %q is not JSON: %w", path, e.line, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// findSeries looks in a Prometheus text page for the first series of that name
// that carries all labels.
func findSeries(page, name string, labels map[string]string) (value float64, found bool) {
	eachSeries(page, name, labels, func(v float64) bool {
		value, found = v, true
		return false
	})
	return value, found
}

// sumSeries adds up all of them.
func sumSeries(page, name string, labels map[string]string) (sum float64, found bool) {
	eachSeries(page, name, labels, func(v float64) bool {
		sum, found = sum+v, true
		return true
	})
	return sum, found
}

func eachSeries(page, name string, labels map[string]string, yield func(float64) bool) {
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		end := strings.LastIndexByte(rest, '}') // -1 where there are no labels
		has := parseLabels(strings.TrimPrefix(rest[:max(end, 0)], "{"))
		matches := true
		for k, v := range labels {
			matches = matches && has[k] == v
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[end+1:]), 64)
		if matches && err == nil && !yield(value) {
			return
		}
	}
}

func parseLabels(s string) map[string]string {
	labels := make(map[string]string)
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		if !ok {
			break
		}
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			break
		}
		value, err := strconv.Unquote(quoted)
		if err != nil {
			break
		}
		labels[strings.TrimSpace(name)] = value
		s = strings.TrimPrefix(rest[len(quoted):], ",")
	}
	return labels
}

// LastLines is the end of a file, for a report of what went wrong.
func LastLines(path string, n int) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var lines []string
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if lines = append(lines, scan.Text()); len(lines) > n {
			lines = lines[1:]
		}
	}
	return lines
}
