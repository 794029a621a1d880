// Package sidecars pins the programs that stand beside a CSI driver in Kubernetes; it has
// nothing of its own.
package sidecars
