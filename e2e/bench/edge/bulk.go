package edge

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"time"
)

// bulkOrder moves one large body each way asked for, on a connection that has carried a small request before.
type bulkOrder struct {
	Proto, Addr string
	Up          bool
	Size        int64
}

type bulkResult struct {
	Elapsed time.Duration
}

func moveBulk(o bulkOrder) (bulkResult, error) {
	if o.Proto == protoH1 || o.Proto == protoH1S {
		return moveBulkH1(o)
	}
	rt, scheme, done := transport(o.Proto)
	defer done()
	base := scheme + "://" + o.Addr
	if _, err := fetch(rt, http.MethodGet, base+"/", nil, 0); err != nil {
		return bulkResult{}, err
	}
	begun := time.Now()
	var err error
	var got int64
	if o.Up {
		got, err = fetch(rt, http.MethodPost, base+"/", &pattern{left: o.Size}, o.Size)
		got += o.Size - int64(len(smallBody))
	} else {
		got, err = fetch(rt, http.MethodGet, fmt.Sprintf("%s/bulk/%d", base, o.Size), nil, 0)
	}
	if err == nil && got != o.Size {
		err = fmt.Errorf("%d of %d bytes came", got, o.Size)
	}
	return bulkResult{time.Since(begun)}, err
}

func fetch(rt http.RoundTripper, method, url string, body io.Reader, length int64) (int64, error) {
	req, err := http.NewRequest(method, url, body)
	if err != nil {
		return 0, err
	}
	req.ContentLength = length
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s %s: status %d", method, url, resp.StatusCode)
	}
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
}

func moveBulkH1(o bulkOrder) (bulkResult, error) {
	c, err := dial(o.Proto, o.Addr)
	if err != nil {
		return bulkResult{}, err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 256<<10)
	resp, err := exchangeH1(c, r, o.Addr, "/")
	if err != nil {
		return bulkResult{}, err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return bulkResult{}, err
	}
	begun := time.Now()
	want := o.Size
	if o.Up {
		want = int64(len(smallBody))
		if _, err = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", o.Addr, o.Size); err != nil {
			return bulkResult{}, err
		}
		for left := o.Size; left > 0; {
			n, err := c.Write(bulkChunk[:min(left, 256<<10)])
			if err != nil {
				return bulkResult{}, err
			}
			left -= int64(n)
		}
		resp, err = http.ReadResponse(r, nil)
	} else {
		resp, err = exchangeH1(c, r, o.Addr, fmt.Sprintf("/bulk/%d", o.Size))
	}
	if err != nil {
		return bulkResult{}, err
	}
	got, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
	if err == nil && (resp.StatusCode != http.StatusOK || got != want) {
		err = fmt.Errorf("status %d with %d bytes, want 200 with %d", resp.StatusCode, got, want)
	}
	return bulkResult{time.Since(begun)}, err
}

// pattern is a body of that many bytes.
type pattern struct{ left int64 }

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(int64(len(b)), p.left)], bulkChunk)
	p.left -= int64(n)
	return n, nil
}
