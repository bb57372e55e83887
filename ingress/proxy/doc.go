// Package proxy carries out the rule of a route: filters, attempts, mirrors,
// upgrades, and the record of it.
package proxy
