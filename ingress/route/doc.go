// Package route finds the rule that a request is for, in the order of precedence
// that HTTPRoute and GRPCRoute define.
//
// The cost of a match grows with the labels of the request's host and with the
// segments of its path, not with the number of rules: there is a map of hosts,
// and for each a map of exact paths and a trie of prefixes. Of rules that share
// one path those that differ in the exact value of a header field or query
// parameter are found by that value.
//
// # Limitations
//
// Regular expressions for paths are tried one after another, those aside that
// begin with whole literal segments which the path does not have. Rules with one
// path that differ in regular expressions, or in which fields they look at, are
// tried one after another too.
package route
