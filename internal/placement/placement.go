// Package placement says which pools are to hold a volume's replicas, and why not the
// others.
//
// A [Cluster] is what is known of nodes and pools, with what has been promised to
// volumes. [Cluster.Choose] finds pools for replicas that are to be added,
// [Cluster.Drop] the replica that can be spared best, [Cluster.Rebalance] plans moves,
// and [Cluster.Lose] says what the loss of nodes would do. What can't be placed comes
// back as a [Refusal] that counts every pool under the reason that rules it out.
//
// # Rules
//
// A node that is down, cordoned, draining or in maintenance gets nothing, nor does a
// pool that is cordoned, draining or in trouble. Two replicas of a volume never share a
// node; with Spread they don't share a rack or a zone either. Without it, zones and then
// racks are still kept apart as far as they reach.
//
// A pool may be promised more than it has, because volumes are thin: up to
// OvercommitPercent of its space without the reserve. What is to be copied into a new
// replica must fit into the space that is really free.
//
// In a group with affinity, nodes of the group's other volumes come first; it is a wish,
// since a replica that is rebuilt far away is better than none. With anti-affinity, no
// node holds two volumes of the group.
//
// The first replica goes to the node that the volume prefers, where its reads then find
// it, if a pool there may be chosen and no group's wish speaks for another.
//
// Among the pools that may be chosen, a few are drawn by the volume's id and the emptiest
// of them is taken. So a decision costs microseconds in a cluster of any size, the same
// input gives the same answer, pools fill evenly, and a new, empty node is not hit by
// every new volume at once.
package placement

// Spread says what no two replicas of a volume share.
type Spread uint8

// The spreads. A zone holds racks, a rack holds nodes.
const (
	Nodes Spread = iota
	Racks
	Zones
)

// String names what is not shared.
func (s Spread) String() string { return [...]string{"node", "rack", "zone"}[s] }

// GroupPolicy says how volumes of one group are placed with regard to each other.
type GroupPolicy uint8

// The group policies.
const (
	Indifferent  GroupPolicy = iota
	Affinity                 // on the same nodes, where they fit
	AntiAffinity             // never on the same node
)

// Node is a machine with its pools.
type Node struct {
	ID     string
	Name   string
	Zone   string
	Rack   string // within the zone
	Labels map[string]string
	Pools  []Pool

	Down        bool
	Cordoned    bool
	Draining    bool
	Maintenance bool
}

// Pool is a place for replicas.
type Pool struct {
	ID       string
	Name     string
	Class    string
	Capacity int64
	Reserve  int64 // kept free, of Capacity
	Used     int64 // now, and by copies that are under way
	Cordoned bool
	Draining bool
	Problem  string // why it can't be used, in words; empty when it can
}

// Volume is what placement needs to know of a volume.
type Volume struct {
	ID          string
	Size        int64 // promised to it, in bytes a replica
	Used        int64 // that a new replica begins with, or is filled with
	Class       string
	Nodes       []string // names or ids of those that may hold it; empty for any
	Zones       []string
	Racks       []string
	Labels      map[string]string // that a node must have
	Spread      Spread
	Group       string
	GroupPolicy GroupPolicy
	Prefer      string // name or id of the node that the volume is used on
}

// Request asks for more replicas of a volume.
type Request struct {
	Volume   Volume
	Replicas int      // to add
	Held     []string // pools that hold a replica and go on holding it
	Avoid    []string // pools whose nodes are not to be chosen: they hold replicas that leave, say
	Leave    []string // pools that are not to be chosen themselves; others on their nodes may be
	Only     []string // pools that alone may be chosen; nil for all
}

// Policy is what holds for every pool.
type Policy struct {
	OvercommitPercent int64 // of a pool's space without its reserve, that may be promised
}
