// Package metadata pins the sidecar that serves changed blocks in Kubernetes. It has a
// module of its own because it builds only with an older csi-test than the other sidecars.
package metadata
