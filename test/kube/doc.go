// Package kube tests Holdfast in a real Kubernetes on one machine: etcd, API server,
// scheduler, kubelets on containerd, the sidecars that Kubernetes ships, all built as Go
// modules, with nodes made of namespaces, which can lose their power at any time. make
// test-kube builds it all, which takes long the first time, and runs the tests.
package kube
