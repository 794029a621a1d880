// Package sim runs whole clusters in one goroutine from one seed: the real coordinator,
// replica, resync and store over simulated disks, network, clocks and record.
//
// A run has two phases. In the first, faults come: nodes die and come back, with and
// without their memory, connections break and what was on its way is read late, messages
// are late, one way or both are cut, the record can't be asked, owners are replaced while
// they live. Then everything heals, and the cluster must converge: all requests answered,
// all replicas in sync and equal. Every block written names its write, so a read is checked
// by look-up.
//
// # What a seed draws
//
// Each option has numbers of its own, drawn from the seed and the option's name: what is new
// should be an option too, so that seeds which do not have it go on as they did.
//
// Nodes, replicas, blocks, requests and how many at a time; delays of network and disks; how
// often there are faults, and a favourite kind; whether machines lose power; and, each for
// some runs only (the run's second line says which):
//
//   - drift: clocks run at 0.6 to 1.4 of the time, so that leases overlap. Writes must be
//     safe all the same, by epochs; an owner of before may read what is old.
//   - rot: bits flip in data and in block tables. Reads are served from another replica,
//     the block is written again. The budget leaves a good copy of each: when the last one
//     would go, the bit flips back.
//   - reads: reads of data fail, a few times.
//   - breaks: a write or a sync fails, and the replica with it; sometimes the owner dies
//     before it could note that.
//   - full: a pool has no space for a while, or the disk itself has none.
//   - slow: a disk's operations take up to a lease, some of them or all, so that the replica is
//     left behind for it.
//   - version: processes that don't speak our version are started, which the handshake of
//     package wire refuses.
//   - changes: snapshots come and go, and the volume grows, all the time.
//   - restores: the volume is given what a snapshot has, as package node does it.
//   - clones: clones are made of snapshots, and must have what these had, at the end.
//
// One seed in twelve has two volumes, with nodes and owners of their own, and snapshots of
// both at one moment (see pair).
//
// Acknowledged writes may vanish without a flush only when every replica that counts has lost
// its memory since.
package sim
