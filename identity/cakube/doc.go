// Package cakube lets a CA run on Kubernetes without state of its own: callers
// are known by TokenReview, what they may have by the pods of their node, the
// roots are kept in a Secret and published in a ConfigMap.
//
// Any number of replicas may do all of it at once. What they write is compared
// with what they read (resourceVersion), so of two that compete one wins and
// the other reads.
//
// # Limitations
//
// Replicas take the time from their own clocks; one that is days ahead makes
// and retires roots days early. A root whose key has leaked stays trusted until
// the last certificate under it has expired, unless somebody removes it from
// the Secret.
package cakube
