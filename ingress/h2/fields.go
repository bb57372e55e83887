package h2

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// fields are those of a header or a trailer as the handler left them, checked, and
// not yet encoded: blocks have to be encoded in the order in which they are sent.
type fields struct {
	list []field
	size int // at most, encoded
}

type field struct {
	fieldName
	value string
}

var fieldsPool = sync.Pool{New: func() any { return new(fields) }}

func getFields() *fields { return fieldsPool.Get().(*fields) }

func putFields(f *fields) {
	clear(f.list)
	if cap(f.list) > 64 {
		f.list = nil
	}
	f.list, f.size = f.list[:0], 0
	fieldsPool.Put(f)
}

// add adds a field by its canonical name, unless it is none that can be sent: a name
// that is no token, one that HTTP/2 does not have, or a value with control
// characters in it.
func (f *fields) add(name, value string) {
	n, ok := knownFields[name]
	if !ok {
		if !validToken(name) {
			return
		}
		n = fieldName{lower: strings.ToLower(name)}
	}
	f.addKnown(n, value)
}

func (f *fields) addKnown(n fieldName, value string) {
	if !validValue(value) {
		if value = strings.Trim(value, " \t"); !validValue(value) {
			return
		}
	}
	if n.how == neverSent {
		return
	}
	f.list = append(f.list, field{n, value})
	f.size += len(n.lower) + len(value) + 12
}

// addAll adds all values of a field.
func (f *fields) addAll(name string, values []string) {
	n, ok := knownFields[name]
	if !ok {
		for _, v := range values {
			f.add(name, v)
		}
		return
	}
	for _, v := range values {
		f.addKnown(n, v)
	}
}

func (f *fields) addLength(n int64) {
	f.addKnown(knownFields["Content-Length"], strconv.FormatInt(n, 10))
}

// date is the value of a Date field, made once a second.
func date() string {
	now := time.Now()
	if d := dateCache.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &dated{now.Unix(), now.UTC().Format(http.TimeFormat)}
	dateCache.Store(d)
	return d.text
}

type dated struct {
	second int64
	text   string
}

var dateCache atomic.Pointer[dated]
