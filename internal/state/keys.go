package state

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"

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
//	policies/<policy>        server: snapshot policies
//	verdicts/<volume>        control: what it has to say about a volume
//	cluster                  server: who the cluster is
//	absences/<id>            control: since when a node or pool has been away
//	condemned/<replica>      control: a replica that is to be deleted
//	strays/<replica>         control: a replica that nobody expects
//	births/<snapshot>/<volume>   control: a clone whose replicas are not all made yet
//	schedules/<policy>/<volume>  control: how far a policy has come with a volume
//	settings/cluster         server
//	operations/<id>          who asks or does the work creates it, then who does the work;
//	                         server marks it canceled; control lets it expire
//	events/<time-id>         who saw it; control lets them expire
//	tokens/<token>           server
//	present/<node>           that node's control process, under a lease
//	metadata/members         the leader of the members: changes when they do
//	metadata/incarnation     who restores the store from a dump: a number that rises
//	trust/authority          daemon, when it makes the cluster
//	trust/keyring            daemon, when it makes the cluster
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
	Policies         = Table[*v1.SnapshotPolicy]{Root + "policies/"}
	Verdicts         = Table[*statepb.Verdict]{Root + "verdicts/"}
	Absences         = Table[*statepb.Absence]{Root + "absences/"}
	Removed          = Table[*statepb.Removed]{Root + "removed/"}
	Condemned        = Table[*statepb.Condemned]{Root + "condemned/"}
	Strays           = Table[*statepb.Stray]{Root + "strays/"}
	ScheduleMarks    = Table[*statepb.ScheduleMark]{Root + "schedules/"}
	Births           = Table[*emptypb.Empty]{Root + "births/"}
	Settings         = Table[*v1.ClusterSettings]{Root + "settings/"}
	Alive            = Table[*emptypb.Empty]{AlivePrefix}
	Operations       = Table[*v1.Operation]{Root + "operations/"}
	Events           = Table[*v1.Event]{Root + "events/"}
	Presences        = Table[*statepb.Presence]{Root + "present/"}
	Tokens           = Table[*statepb.Token]{Root + "tokens/"}
)

// The kinds of objects that have names.
const (
	KindNode     = "node"
	KindPool     = "pool"
	KindVolume   = "volume"
	KindSnapshot = "snapshot"
	KindPolicy   = "policy"
)

// SettingsID is the id of the only entry of Settings.
const SettingsID = "cluster"

// ClusterKey is where a v1.Cluster says who the cluster is, without its settings.
const ClusterKey = Root + "cluster"

// What the embedded store says of itself.
const (
	MembersKey     = Root + "metadata/members"     // text for people; it changes with the members
	IncarnationKey = Root + "metadata/incarnation" // a decimal number; none is 0
)

// AlivePrefix is where nodes say that they are there, under a lease; see KeepThere.
const AlivePrefix = Root + "alive/"

// AliveKey is where the node says that it is there.
func AliveKey(node string) string { return AlivePrefix + node }

// NameKey is where the id of the object of that kind and name is.
func NameKey(kind, name string) string { return Root + "names/" + kind + "/" + name }

// BirthKey is the id in Births of a clone that begins with a snapshot.
func BirthKey(snapshot, clone string) string { return snapshot + "/" + clone }

// BirthOf returns the ids that BirthKey has put together.
func BirthOf(key string) (snapshot, clone string) {
	snapshot, clone, _ = strings.Cut(key, "/")
	return snapshot, clone
}

// EventID makes the id of an event from its time and something unique: events are in the
// order of their ids, whoever writes them.
func EventID(at time.Time, unique string) string {
	return fmt.Sprintf("%020d-%.8s", at.UnixNano(), strings.ToLower(unique))
}
