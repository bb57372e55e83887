package h2

import (
	"hash/maphash"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// fieldName is what the encoder knows of a field's name.
type fieldName struct {
	lower string
	index byte // in the static table, 0 = not there
	how   indexingHow
}

type indexingHow uint8

const (
	mayIndex   indexingHow = iota // into the dynamic table when it comes again
	neverIndex                    // a secret (RFC 7541 section 7.1.3)
	neverSent                     // of HTTP/1.1's connections
)

func indexing(lower string) indexingHow {
	switch lower {
	case "set-cookie", "authorization", "proxy-authorization", "cookie":
		return neverIndex
	}
	return mayIndex
}

const (
	staticLen    = 61
	statusIndex  = 8
	lengthIndex  = 28
	dateIndex    = 33
	maxTableSize = 4096
	maxEntries   = maxTableSize / 32
)

// staticNames are the names of the static table (RFC 7541 appendix A) with the
// first index that has them.
var staticNames = map[string]byte{
	":authority": 1, ":method": 2, ":path": 4, ":scheme": 6, ":status": statusIndex,
	"accept-charset": 15, "accept-encoding": 16, "accept-language": 17, "accept-ranges": 18,
	"accept": 19, "access-control-allow-origin": 20, "age": 21, "allow": 22,
	"authorization": 23, "cache-control": 24, "content-disposition": 25,
	"content-encoding": 26, "content-language": 27, "content-length": lengthIndex,
	"content-location": 29, "content-range": 30, "content-type": 31, "cookie": 32,
	"date": dateIndex, "etag": 34, "expect": 35, "expires": 36, "from": 37, "host": 38,
	"if-match": 39, "if-modified-since": 40, "if-none-match": 41, "if-range": 42,
	"if-unmodified-since": 43, "last-modified": 44, "link": 45, "location": 46,
	"max-forwards": 47, "proxy-authenticate": 48, "proxy-authorization": 49, "range": 50,
	"referer": 51, "refresh": 52, "retry-after": 53, "server": 54, "set-cookie": 55,
	"strict-transport-security": 56, "transfer-encoding": 57, "user-agent": 58, "vary": 59,
	"via": 60, "www-authenticate": staticLen,
}

// encoder makes header blocks (RFC 7541). Its table is the connection's, so that
// blocks have to be made in the order in which they are sent.
//
// A field goes into the dynamic table when it comes a second time within a short
// while: most values are either the same in every answer or never seen again.
type encoder struct {
	limit   uint32 // of the table: ours, or the client's if that is less
	least   uint32 // of limit since the last block
	resized bool   // the client has to be told limit
	size    uint32
	ring    []tableEntry // grows up to maxEntries
	head, n int          // the oldest, and how many
	seen    [32]uint64   // hashes of fields that came once, by hash
}

type tableEntry struct {
	hash        uint64
	name, value string
	size        uint32
}

var hashSeed = maphash.MakeSeed()

func (e *encoder) init() { e.limit, e.least = maxTableSize, maxTableSize }

// resize heeds SETTINGS_HEADER_TABLE_SIZE.
func (e *encoder) resize(limit uint32) {
	limit = min(limit, maxTableSize)
	if limit == e.limit {
		return
	}
	e.limit, e.resized = limit, true
	e.least = min(e.least, limit)
	e.evict(0)
}

// evict makes room for an entry of so many bytes.
func (e *encoder) evict(room uint32) {
	for e.n > 0 && e.size+room > e.limit {
		at := e.head
		e.size -= e.ring[at].size
		e.ring[at] = tableEntry{}
		e.head = (e.head + 1) & (len(e.ring) - 1)
		e.n--
	}
}

// begin appends what has to come before a block's first field (RFC 7541 section
// 4.2).
func (e *encoder) begin(b []byte) []byte {
	if !e.resized {
		return b
	}
	e.resized = false
	if e.least < e.limit {
		// The size was less for a moment, and the client wants to hear of that. It
		// hears of 0, for some decoders take the second update for a mistake if
		// anything is left in the table.
		b = append(b, 0x20)
		e.evict(e.limit + 1)
	}
	e.least = e.limit
	return appendInt(b, 0x20, 5, uint64(e.limit))
}

func (e *encoder) status(b []byte, status int) []byte {
	switch status {
	case 200:
		return append(b, 0x80|statusIndex)
	case 204:
		return append(b, 0x80|9)
	case 206:
		return append(b, 0x80|10)
	case 304:
		return append(b, 0x80|11)
	case 400:
		return append(b, 0x80|12)
	case 404:
		return append(b, 0x80|13)
	case 500:
		return append(b, 0x80|14)
	}
	return append(b, statusIndex, 3, byte('0'+status/100), byte('0'+status/10%10), byte('0'+status%10))
}

// one appends a field.
func (e *encoder) one(b []byte, f fieldName, value string) []byte {
	size := uint32(len(f.lower) + len(value) + 32)
	switch {
	case f.how == neverIndex:
		return appendString(appendName(b, 0x10, 4, f), value)
	case size > e.limit/2:
		return appendString(appendName(b, 0, 4, f), value)
	}
	h := maphash.String(hashSeed, f.lower)*31 + maphash.String(hashSeed, value)
	for i := range e.n {
		x := &e.ring[(e.head+i)&(len(e.ring)-1)]
		if x.hash == h && x.value == value && x.name == f.lower {
			return appendInt(b, 0x80, 7, uint64(staticLen+e.n-i))
		}
	}
	slot := &e.seen[h%uint64(len(e.seen))]
	if *slot != h {
		*slot = h
		b = appendName(b, 0, 4, f)
		return appendString(b, value)
	}
	b = appendName(b, 0x40, 6, f)
	e.evict(size)
	if e.n == len(e.ring) {
		e.grow()
	}
	// The value may be a part of something much larger.
	e.ring[(e.head+e.n)&(len(e.ring)-1)] = tableEntry{h, f.lower, strings.Clone(value), size}
	e.n++
	e.size += size
	return appendString(b, value)
}

// grow makes room for more entries. The ring's length is a power of two.
func (e *encoder) grow() {
	ring := make([]tableEntry, max(8, 2*len(e.ring)))
	for i := range e.n {
		ring[i] = e.ring[(e.head+i)&(len(e.ring)-1)]
	}
	e.ring, e.head = ring, 0
}

// appendName appends how a field is represented, and its name.
func appendName(b []byte, high byte, bits int, f fieldName) []byte {
	b = appendInt(b, high, bits, uint64(f.index))
	if f.index == 0 {
		b = appendString(b, f.lower)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	if n := hpack.HuffmanEncodeLength(s); n < uint64(len(s)) {
		b = appendInt(b, 0x80, 7, n)
		return hpack.AppendHuffmanString(b, s)
	}
	b = appendInt(b, 0, 7, uint64(len(s)))
	return append(b, s...)
}

// appendInt appends n with a prefix of so many bits (RFC 7541 section 5.1).
func appendInt(b []byte, high byte, bits int, n uint64) []byte {
	most := uint64(1)<<bits - 1
	if n < most {
		return append(b, high|byte(n))
	}
	b = append(b, high|byte(most))
	for n -= most; n >= 128; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}
