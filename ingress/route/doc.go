// Package route finds the rule that a request is for.
package route
