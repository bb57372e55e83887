package route

import (
	"net/http"
	"regexp"
	"time"
)

// PathKind is how a path is compared.
type PathKind uint8

// The kinds of path matches of Gateway API.
const (
	PathPrefix PathKind = iota // by whole segments; "/" matches everything
	PathExact
	PathRegex // RE2, the whole path
	// PathMethod is the method of gRPC in whatever service: the second of exactly
	// two segments. Value is "/" and the method. It comes after every prefix but
	// "/", as GRPCRoute counts characters of the service first.
	PathMethod
)

// PathMatch compares a request's path. The zero value matches every path.
//
// Values are compared as Normalise writes escapes, so "/%7euser" is "/~user". A
// slash at the end of a prefix is ignored, also when lengths are compared.
type PathMatch struct {
	Kind  PathKind
	Value string
	// Regex is set for PathRegex, and anchored.
	Regex *regexp.Regexp
}

// ValueMatch compares the value of a header field or a query parameter.
//
// A field that is repeated is compared as one, its values joined with "," (RFC
// 9110 section 5.3); Host is Request.Host. Of a parameter that is repeated the
// first counts, unescaped.
type ValueMatch struct {
	Name  string         // header: canonical form of http.CanonicalHeaderKey
	Value string         // "" with Regex
	Regex *regexp.Regexp // anchored
}

// Match is what a request must be for a rule to apply: all of it.
type Match struct {
	Path    PathMatch
	Method  string // "" = any
	Headers []ValueMatch
	Query   []ValueMatch
}

// Owner names the object that an entry comes from.
type Owner struct {
	Kind      string // HTTPRoute, GRPCRoute
	Namespace string
	Name      string
}

// Entry is one match of one rule, under one host name.
type Entry[R any] struct {
	// Host is "" for any, a name in lower case, or "*." and a suffix.
	Host  string
	Match Match
	// Created, Owner, Rule and Index break ties, in this order: the older object,
	// its name by alphabet, its first rule, that rule's first match.
	Created time.Time
	Owner   Owner
	Rule    int
	Index   int
	Value   R
}

// Request is what a table looks at. It is not kept.
type Request struct {
	Host     string // lower case, without port
	Path     string // as the client sent it, normalised; still escaped
	RawQuery string
	Method   string
	Header   http.Header
}
