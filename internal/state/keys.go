package state

import (
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// Root is the beginning of every key. What follows is written by one kind of writer alone:
//
//	nodes/<node>             server: joining, and what people do to nodes
//	nodestatus/<node>        that node's data process
//	alive/<node>             that node's data process, under a lease
//	pools/<pool>             server: a node registers its pools through it
//	poolstatus/<pool>        that node's data process
//	volumes/<volume>         server
//	names/<kind>/<name>      server, in the commit that writes the object: its id
//	assignments/<volume>     control
//	records/<volume>         control with the first assignment, then the volume's head alone
//	holdings/<replica>       the node that holds the replica
//	attachments/<volume>     server: the spec alone
//	attachstatus/<volume>    the node where the head runs
//	snapshots/<snapshot>     server
//	snapstatus/<snapshot>    the node where the head runs
//	operations/<id>          who does the work; control lets them expire
//	events/<time-id>         who saw it; control lets them expire
//	leaders/<name>/<any>     Store.Lead
const Root = "/holdfast/"

// The tables. An id is that of the object, in the form that block's ids print.
var (
	Nodes            = Table[*v1.Node]{Root + "nodes/"}
	NodeStatuses     = Table[*v1.NodeStatus]{Root + "nodestatus/"}
	Pools            = Table[*v1.Pool]{Root + "pools/"}
	PoolStatuses     = Table[*v1.PoolStatus]{Root + "poolstatus/"}
	Volumes          = Table[*v1.Volume]{Root + "volumes/"}
	Assignments      = Table[*statepb.Assignment]{Root + "assignments/"}
	Records          = Table[*statepb.Record]{Root + "records/"}
	Holdings         = Table[*statepb.Holding]{Root + "holdings/"}
	Attachments      = Table[*v1.Attachment]{Root + "attachments/"}
	AttachStatuses   = Table[*v1.AttachmentStatus]{Root + "attachstatus/"}
	Snapshots        = Table[*v1.Snapshot]{Root + "snapshots/"}
	SnapshotStatuses = Table[*v1.SnapshotStatus]{Root + "snapstatus/"}
	Operations       = Table[*v1.Operation]{Root + "operations/"}
	Events           = Table[*v1.Event]{Root + "events/"}
)

// The kinds of objects that have names.
const (
	KindNode     = "node"
	KindPool     = "pool"
	KindVolume   = "volume"
	KindSnapshot = "snapshot"
)

// AlivePrefix is where nodes say that they are there, under a lease; see KeepThere.
const AlivePrefix = Root + "alive/"

// AliveKey is where the node says that it is there.
func AliveKey(node string) string { return AlivePrefix + node }

// NameKey is where the id of the object of that kind and name is.
func NameKey(kind, name string) string { return Root + "names/" + kind + "/" + name }
