// Package kube is what Kubernetes needs besides the Container Storage Interface:
//
//   - [Registrar] registers the driver with the kubelet of its node.
//   - [Monitor] releases what a node that is gone holds, so that pods with our volumes
//     start elsewhere in seconds and not after Kubernetes' six minutes.
//   - [Extender] lets the scheduler prefer nodes that hold a pod's data.
//
// It speaks to the API server over HTTP and JSON with the few fields that it needs: the
// client library of Kubernetes is larger than all of Holdfast.
package kube
