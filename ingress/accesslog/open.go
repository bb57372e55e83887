package accesslog

import (
	"io"
	"os"
)

// File opens path for Config.Open: lines are added at its end, and it is made if
// it is not there.
func File(path string) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) {
		return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	}
}

// To writes to w, for Config.Open. It is never closed.
func To(w io.Writer) func() (io.WriteCloser, error) {
	return func() (io.WriteCloser, error) { return open{w}, nil }
}

type open struct{ io.Writer }

func (open) Close() error { return nil }
