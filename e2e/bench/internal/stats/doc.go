// Package stats turns rounds of measurements into medians and ratios, and those into text.
package stats
