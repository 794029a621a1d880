// Package node is the data process of a node: it runs the coordinators of the volumes
// that are attached here, the replicas that lie here, and the connections between them
// and those of other nodes.
//
// What it promises is what the deciders promise (packages coordinator and replica): it
// feeds them events and performs their effects, in order, and decides nothing that
// concerns data.
//
// # Goroutines
//
// Everything that a volume's I/O passes through happens on the goroutine of one
// [host.Loop]: stores, replicas, heads and front ends. Names of types whose comments say
// "the loop's" are touched by no other. Each connection has two goroutines, which read
// and write the socket and do its encryption. What must wait (attaching, mounting, the
// cluster's state) is done by agents, which reach the loop by Post.
//
// # Memory
//
// A request is carried by objects that are used again: an ioRequest for each slot of
// a device, an op for each operation of a replica. Frames and read buffers come from one
// link.Pool. What one volume may have in flight is bounded by its device's depth and
// coordinator.Options.QueueMax, what one replica may have by replica.InFlightMax, and
// what one connection may bring by link.Options, and what it may be owed by debtMax.
package node
