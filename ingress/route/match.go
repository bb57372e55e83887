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
)

// PathMatch compares a request's path. The zero value matches every path.
type PathMatch struct {
	Kind  PathKind
	Value string
	// Regex is set for PathRegex, and anchored.
	Regex *regexp.Regexp
}

// ValueMatch compares the value of a header field or a query parameter.
type ValueMatch struct {
	Name  string // header: canonical form of http.CanonicalHeaderKey
	Value string // "" with Regex
	Regex *regexp.Regexp
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

// Request is what a table looks at.
type Request struct {
	Host     string // lower case, without port
	Path     string // as the client sent it, normalised; still escaped
	RawQuery string
	Method   string
	Header   http.Header
}
