// Package vm tests a node in an emulated machine (`make test-vm`), whose kernel has the
// drivers that few machines have: volumes as devices of ublk and of the kernel's NBD client.
package vm
