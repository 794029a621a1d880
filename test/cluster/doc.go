// Package cluster tests whole clusters: real processes of this program on this machine, each
// node at a loopback address of its own.
package cluster
