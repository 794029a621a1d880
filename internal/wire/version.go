package wire

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Version is a version of the format. Two peers speak the highest that both know.
type Version uint16

// The versions. For a change add a line, raise Highest, add testdata/vN.hex; never edit
// an old line. Hello and Refuse are the same in all of them.
const (
	V1 Version = 1 // the first
	V2 Version = 2 // ReadBlocks and WriteBlocks: a resync of scattered blocks moves many with one message
	V3 Version = 3 // a replica says Lost or Forgot, and Flush with Whole ends that
	V4 Version = 4 // Seal: writes don't wait for the disk while a snapshot is taken
)

// What this build speaks.
const (
	Lowest  = V3 // what came before could not say that a replica had lost something, and was in no release
	Highest = V4
)

// Agree returns the version that the two ends of a connection speak, given what both
// said. Both come to the same result, so either may refuse. A peer of another cluster
// is fault.Denied, one with no version in common is fault.Unsupported.
func Agree(ours, theirs *Hello) (Version, error) {
	const op = "wire.Agree"
	if ours.Cluster != theirs.Cluster {
		return 0, fault.WithCure(fault.Errorf(op, fault.Denied, "node %s (%q) belongs to cluster %s, this one to %s",
			theirs.Node, theirs.Name, theirs.Cluster, ours.Cluster), "check the address, and which cluster the node was added to")
	}
	v := min(ours.Highest, theirs.Highest)
	if v >= max(ours.Lowest, theirs.Lowest) {
		return v, nil
	}
	older := theirs
	if ours.Highest < theirs.Lowest {
		older = ours
	}
	return 0, fault.WithCure(fault.Errorf(op, fault.Unsupported, "node %s (%q) speaks versions %d to %d, this one %d to %d",
		theirs.Node, theirs.Name, theirs.Lowest, theirs.Highest, ours.Lowest, ours.Highest),
		fmt.Sprintf("upgrade holdfast on node %s (%q)", older.Node, older.Name))
}
