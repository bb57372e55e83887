package h2

import (
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// The pseudo-header fields of requests, as bits.
const (
	pseudoMethod uint8 = 1 << iota
	pseudoScheme
	pseudoAuthority
	pseudoPath
	pseudoProtocol
)

// block is a header block while it is decoded, and what it says. It belongs to the
// reader, which uses it again.
type block struct {
	id      uint32
	ended   bool // END_STREAM
	selfDep bool // the stream depends on itself
	trailer bool // of a request; else its header
	frames  int  // HEADERS and CONTINUATION so far
	bytes   int  // of fragments so far

	method, scheme, authority, path, protocol string
	pseudos                                   uint8

	header   http.Header
	values   []string // the array that header's values share
	fields   int      // regular ones, cookies not counted
	last     int      // of the block before: what to make room for
	crumbs   []string // Cookie fields (RFC 9113 section 8.2.3)
	length   int64    // content-length, -1 = none
	expect   bool     // 100-continue
	left     int      // of the size that a header may have (RFC 9113 section 6.5.2)
	err      error    // malformed
	tooLarge bool
}

// blockReader decodes header blocks, fragment by fragment as frames come.
type blockReader struct {
	hpack     *hpack.Decoder
	maxBytes  int
	maxFields int
	b         block
	names     map[string]string // of fields that knownNames lacks, canonical
	open      bool              // CONTINUATION is to come
}

// maxNames bounds how many unusual field names a connection remembers.
const maxNames = 64

// maxContinuations bounds the frames of a header block.
const maxContinuations = 32

// maxBlock bounds the bytes of its fragments: a header that is somewhat too large is
// answered, and one that is far too large is not decoded.
func (r *blockReader) maxBlock() int { return 2*r.maxBytes + 16<<10 }

func (r *blockReader) init(maxBytes, maxFields int) {
	r.maxBytes, r.maxFields = maxBytes, maxFields
	r.hpack = hpack.NewDecoder(maxTableSize, r.emit)
	// Huffman codes are at least 5 bits long: no string of a block is longer.
	r.hpack.SetMaxStringLength(r.maxBlock() * 8 / 5)
}

// begin starts a block of a stream's HEADERS frame.
func (r *blockReader) begin(id uint32, ended bool) {
	crumbs := r.b.crumbs[:0]
	clear(crumbs[:cap(crumbs)])
	if cap(crumbs) > 16 {
		crumbs = nil
	}
	last := r.b.last
	if r.b.header != nil && !r.b.trailer {
		last = min(r.b.fields+1, 64)
	}
	r.b = block{id: id, ended: ended, left: r.maxBytes, length: -1, last: last, crumbs: crumbs}
	r.hpack.SetEmitEnabled(true)
}

// fragment takes the next part of the block.
func (r *blockReader) fragment(p []byte, end bool) error {
	b := &r.b
	b.frames++
	b.bytes += len(p)
	if b.frames > maxContinuations || b.bytes > r.maxBlock() {
		// The rest would have to be decoded to keep the table in step, and who
		// sends that much means no good (CVE-2024-27316 and its kin).
		return connFailed(http2.ErrCodeEnhanceYourCalm, "header block far beyond SETTINGS_MAX_HEADER_LIST_SIZE")
	}
	if _, err := r.hpack.Write(p); err != nil {
		return connFailed(http2.ErrCodeCompression, "header block that cannot be decoded")
	}
	r.open = !end
	if !end {
		return nil
	}
	if err := r.hpack.Close(); err != nil {
		return connFailed(http2.ErrCodeCompression, "header block that ends in a field")
	}
	return nil
}

// emit takes one field from the decoder. A block that is wrong is decoded to its
// end all the same: the table must stay in step.
func (r *blockReader) emit(f hpack.HeaderField) {
	b := &r.b
	if b.left -= len(f.Name) + len(f.Value) + 32; b.left < 0 {
		b.tooLarge = true
		r.hpack.SetEmitEnabled(false)
		return
	}
	if b.err == nil {
		if len(f.Name) > 0 && f.Name[0] == ':' {
			b.err = b.pseudo(f.Name, f.Value)
		} else {
			b.err = r.regular(f.Name, f.Value)
		}
	}
	if b.err != nil || b.tooLarge {
		r.hpack.SetEmitEnabled(false)
	}
}

// pseudo takes a pseudo-header field (RFC 9113 section 8.3).
func (b *block) pseudo(name, value string) error {
	var bit uint8
	var to *string
	switch name {
	case ":method":
		bit, to = pseudoMethod, &b.method
	case ":scheme":
		bit, to = pseudoScheme, &b.scheme
	case ":authority":
		bit, to = pseudoAuthority, &b.authority
	case ":path":
		bit, to = pseudoPath, &b.path
	case ":protocol":
		bit, to = pseudoProtocol, &b.protocol
	default:
		return errPseudoUnknown
	}
	switch {
	case b.trailer:
		return errPseudoTrailer
	case b.header != nil || len(b.crumbs) > 0:
		return errPseudoLate
	case b.pseudos&bit != 0:
		return errPseudoTwice
	case value == "":
		return errPseudoEmpty
	}
	b.pseudos |= bit
	*to = value
	return nil
}

// regular takes any other field (RFC 9113 section 8.2).
func (r *blockReader) regular(name, value string) error {
	b := &r.b
	if !validValue(value) {
		return errFieldValue
	}
	if b.header == nil {
		room := b.last
		if b.trailer {
			room = 4
		}
		b.header = make(http.Header, room)
		b.values = make([]string, room)
	}
	canonical, ok := knownNames[name]
	if !ok {
		if canonical, ok = r.name(name); !ok {
			return errFieldName
		}
	}
	if name == "cookie" && !b.trailer {
		b.crumbs = append(b.crumbs, value)
		return nil
	}
	if b.fields++; b.fields > r.maxFields {
		b.tooLarge = true
		return nil
	}
	if err := b.special(name, value); err != nil {
		return err
	}
	if vv, ok := b.header[canonical]; ok {
		b.header[canonical] = append(vv, value)
		return nil
	}
	if len(b.values) == 0 {
		b.values = make([]string, 8)
	}
	b.values[0] = value
	b.header[canonical], b.values = b.values[:1:1], b.values[1:]
	return nil
}

// name is the canonical form of a field name that is not among the known ones.
func (r *blockReader) name(name string) (string, bool) {
	if canonical, ok := r.names[name]; ok {
		return canonical, true
	}
	if name == "" || !all(name, isName) {
		return "", false
	}
	canonical := http.CanonicalHeaderKey(name)
	if len(r.names) < maxNames && len(name) <= 64 {
		if r.names == nil {
			r.names = make(map[string]string)
		}
		r.names[name] = canonical
	}
	return canonical, true
}

// special checks the fields that frame a message or rule a connection.
func (b *block) special(name, value string) error {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return errConnection
	case "te":
		if !equalFold(value, "trailers") {
			return errTE
		}
	case "content-length":
		n, ok := parseLength(value)
		if !ok || b.length >= 0 {
			return errContentLength
		}
		b.length = n
	case "expect":
		if !equalFold(value, "100-continue") {
			return errExpectUnknown
		}
		b.expect = true
	}
	return nil
}

// parseLength parses 1*DIGIT.
func parseLength(s string) (int64, bool) {
	if s == "" || len(s) > 18 || !all(s, isDigit) {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// done completes the fields of a block that is whole.
func (b *block) done() {
	if len(b.crumbs) > 0 && b.header != nil {
		b.header["Cookie"] = []string{strings.Join(b.crumbs, "; ")}
	}
	if b.header == nil {
		b.header = make(http.Header)
	}
}

// forbiddenTrailer are fields that may not come behind a body: what frames or
// routes a message has been acted on by then (RFC 9110 section 6.5.1).
var forbiddenTrailer = map[string]bool{
	"Authorization": true, "Cache-Control": true, "Connection": true,
	"Content-Encoding": true, "Content-Length": true, "Content-Range": true,
	"Content-Type": true, "Cookie": true, "Expect": true, "Host": true,
	"Keep-Alive": true, "Max-Forwards": true, "Pragma": true,
	"Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Proxy-Connection": true, "Range": true, "Realm": true, "Set-Cookie": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Www-Authenticate": true,
}

// checkTrailer says what is wrong with a request's trailer.
func (b *block) checkTrailer() error {
	if b.err != nil {
		return b.err
	}
	for name := range b.header {
		if forbiddenTrailer[name] {
			return errTrailerField
		}
	}
	return nil
}
