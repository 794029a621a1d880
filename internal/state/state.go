// Package state is what the cluster has agreed on: typed, revisioned, watchable. Every
// key has one writer.
//
// Its messages are those of the API (specs and statuses) and those of package statepb,
// which nobody outside sees as they are.
package state
