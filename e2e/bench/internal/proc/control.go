package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The bench and its workers speak JSON over the worker's standard input and output: one request, one response, in turn.
// The end of the worker's input is its order to go.

type request struct {
	Do  string          `json:"do"`
	Arg json.RawMessage `json:"arg,omitempty"`
}

type response struct {
	Err    string          `json:"err,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Serve answers requests until in ends.
func Serve(in io.Reader, out io.Writer, handle func(do string, arg json.RawMessage) (any, error)) error {
	dec, enc := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var req request
		if err := dec.Decode(&req); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read order: %w", err)
		}
		var resp response
		result, err := handle(req.Do, req.Arg)
		if err != nil {
			resp.Err = err.Error()
		} else if resp.Result, err = json.Marshal(result); err != nil {
			return fmt.Errorf("encode answer to %q: %w", req.Do, err)
		}
		if err := enc.Encode(resp); err != nil {
			return fmt.Errorf("answer %q: %w", req.Do, err)
		}
	}
}

// DecodeArg reads the argument of a request.
func DecodeArg[T any](arg json.RawMessage) (T, error) {
	var v T
	err := json.Unmarshal(arg, &v)
	return v, err
}

// HandleCommon answers the orders that every role knows.
func HandleCommon(do string) (any, error) {
	switch do {
	case "usage":
		return OwnUsage()
	case "release":
		ReleaseMemory()
		return nil, nil
	}
	return nil, fmt.Errorf("unknown order %q", do)
}
