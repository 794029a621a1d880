// Package sim runs whole clusters in one goroutine from one seed: the real coordinator,
// replica, resync and store over simulated disks, network, clocks and record.
//
// A run has two phases. In the first, nodes die and come back, with and without their
// memory, connections break, messages are late, the record can't be asked, owners are
// replaced while they live. Then everything heals, and the cluster must converge: all
// requests answered, all replicas in sync and equal. Every block written names its
// write, so a read is checked by look-up.
package sim
