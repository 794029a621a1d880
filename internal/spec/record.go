// Package spec names intentions and what became of them: what users ask for, and what
// the cluster has recorded about it. It holds words, nothing that acts.
package spec

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
)

// ReplicaState says whether a copy counts.
type ReplicaState uint8

// The states of a replica.
const (
	InSync   ReplicaState = iota + 1 // holds every acknowledged write
	Outdated                         // missed writes since Member.Since, or has none yet
)

// String names the state as the design does.
func (s ReplicaState) String() string {
	switch s {
	case InSync:
		return "InSync"
	case Outdated:
		return "Outdated"
	}
	return "unknown"
}

// Member is one replica in a volume's record.
type Member struct {
	Replica block.ReplicaID
	Node    block.NodeID
	State   ReplicaState
	// Since is the epoch in which an Outdated replica was left behind: it may lack what
	// was written from that epoch on. 0 means that it may lack everything.
	Since block.Epoch
}

// Record is what the cluster has agreed on about a volume: who may write, and which
// copies count. It is changed by compare-and-swap on Version only, and it is changed
// before anything is done that relies on the change. While a volume is attached only its
// owner changes it.
type Record struct {
	Version     uint64 // of the record, for compare-and-swap
	Volume      block.VolumeID
	Size        int64        // bytes
	Epoch       block.Epoch  // rises at every change of owner or of the in-sync set
	Owner       block.NodeID // where the volume is attached; zero when it is not
	Incarnation uint64       // of the owner's process
	// OwnerSince is the epoch in which Owner became the owner: all epochs from it on are
	// of that node.
	OwnerSince block.Epoch
	Members    []Member

	// Settled is an epoch that every replica which is in sync has promised: one that
	// knows only of lower ones holds old data, whatever the record says.
	Settled block.Epoch
	// Generation is the next one to be given to a snapshot; 0 means 1. Numbers below it
	// are never given again, so a snapshot that came to nothing leaves a gap.
	Generation block.Generation
	// Snapshots are the generations that can be read, ascending. A replica may know
	// others: they came to nothing, or were deleted while it was away.
	Snapshots []block.Generation
}

// Clone returns a copy that shares nothing with r.
func (r Record) Clone() Record {
	r.Members = slices.Clone(r.Members)
	r.Snapshots = slices.Clone(r.Snapshots)
	return r
}

// InSync counts the members that are in sync.
func (r Record) InSync() int {
	n := 0
	for _, m := range r.Members {
		if m.State == InSync {
			n++
		}
	}
	return n
}

// Find returns the place of a replica among the members, or -1.
func (r Record) Find(id block.ReplicaID) int {
	return slices.IndexFunc(r.Members, func(m Member) bool { return m.Replica == id })
}
