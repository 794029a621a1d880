// Package e2e tests what users are given: real processes of the one binary, with etcd,
// pools, devices and filesystems, on this machine. Each test has a cluster of its own.
package e2e
