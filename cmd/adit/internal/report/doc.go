// Package report writes what agents tell as plain text for people: tables that
// fit the terminal, no colours, the same for the same facts.
package report
