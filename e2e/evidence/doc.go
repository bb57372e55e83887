// Package evidence states claims and what shows them: a report for people to
// read, and what a capture says of the traffic on a link.
package evidence
