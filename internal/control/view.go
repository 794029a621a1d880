package control

import (
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/placement"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// view is everything that the state holds, as of one revision, with what follows from it.
// One watch feeds all of it, so that what is decided here is decided about something that
// was so at one moment. It belongs to whoever holds it.
type view struct {
	revision state.Revision
	settings settings

	nodes        table[*v1.Node]
	nodeStatuses table[*v1.NodeStatus]
	alive        table[*emptypb.Empty]
	absences     table[*statepb.Absence]
	pools        table[*v1.Pool]
	poolStatuses table[*v1.PoolStatus]
	volumes      table[*v1.Volume]
	verdicts     table[*statepb.Verdict]
	assignments  table[*statepb.Assignment]
	records      table[*statepb.Record]
	holdings     table[*statepb.Holding]
	condemned    table[*statepb.Condemned]
	strays       table[*statepb.Stray]
	attachments  table[*v1.Attachment]
	snapshots    table[*v1.Snapshot]
	snapStatuses table[*v1.SnapshotStatus]
	policies     table[*v1.SnapshotPolicy]
	marks        table[*statepb.ScheduleMark]
	births       table[*emptypb.Empty]
	operations   table[*v1.Operation]
	events       table[*v1.Event]
	names        map[string]string // key -> id
	tables       map[string]keyed  // by the first word of the key

	cluster  *placement.Cluster // nil: to be built anew
	poolsOf  sets               // node -> pools
	at       sets               // node or pool -> volumes with a replica there
	holds    sets               // volume -> replicas with a holding
	snaps    sets               // volume -> snapshots
	groups   sets               // group -> its snapshots
	clones   sets               // snapshot -> volumes that begin with it
	attached sets               // node -> volumes that are attached there
	active   map[string]bool    // operations that have not ended
	shares   map[string]share   // by volume
	pending  map[string]int64   // pool -> bytes still to come by copies that are under way
	filling  map[string]int     // node -> replicas that are being filled there
	fillings int                // all of them

	touched  map[string]bool // volumes to be looked at
	fresh    map[string]bool // tables that changed, by the first word of their keys
	suspects map[string]bool // holdings that may be expected by nobody
	pulses   map[string]bool // nodes and pools that may have come or gone
	loading  bool            // the sums are made at the end
	stirred  bool            // something changed that may make room: all that wait are to be looked at
}

// share is what a volume adds to the sums.
type share struct {
	pools   []string
	nodes   []string
	group   string
	size    int64
	filling []string         // nodes
	pending map[string]int64 // by pool
}

// sets are sets of ids, by id.
type sets map[string]map[string]bool

func (s sets) add(key, id string) {
	if s[key] == nil {
		s[key] = map[string]bool{}
	}
	s[key][id] = true
}

func (s sets) drop(key, id string) {
	if delete(s[key], id); len(s[key]) == 0 {
		delete(s, key)
	}
}

// of returns the ids in order.
func (s sets) of(key string) []string { return slices.Sorted(maps.Keys(s[key])) }

// keyed is what all tables have in common.
type keyed interface {
	put(state.Item) error
	drop(key string, at state.Revision)
	list() []string
}

// table is a state.Table in memory. changed is told what an entry was and is; either may
// be missing.
type table[T proto.Message] struct {
	state.Table[T]
	entries map[string]state.Entry[T]
	changed func(id string, was, now T)
}

func (t *table[T]) get(id string) (state.Entry[T], bool) {
	e, ok := t.entries[id]
	return e, ok
}

// value returns a message, or the zero message, which is nil.
func (t *table[T]) value(id string) T { return t.entries[id].Value }

// list returns the ids in order.
func (t *table[T]) list() []string { return slices.Sorted(maps.Keys(t.entries)) }

func (t *table[T]) put(item state.Item) error {
	e, err := t.Decode(item)
	if err != nil {
		return err
	}
	was, known := t.entries[e.ID]
	if known && was.Revision >= e.Revision {
		return nil // our own commit, which we know already
	}
	t.entries[e.ID] = e
	if t.changed != nil {
		t.changed(e.ID, was.Value, e.Value)
	}
	return nil
}

func (t *table[T]) drop(key string, at state.Revision) {
	id := strings.TrimPrefix(key, t.Prefix)
	was, known := t.entries[id]
	if !known || was.Revision > at {
		return
	}
	delete(t.entries, id)
	if t.changed != nil {
		var none T
		t.changed(id, was.Value, none)
	}
}

// newView returns an empty view.
func newView() *view {
	v := &view{settings: settingsOf(nil), names: map[string]string{}, tables: map[string]keyed{}, poolsOf: sets{}, at: sets{}, holds: sets{},
		snaps: sets{}, groups: sets{}, clones: sets{}, attached: sets{}, active: map[string]bool{}, shares: map[string]share{}, pending: map[string]int64{}, filling: map[string]int{}, touched: map[string]bool{}, suspects: map[string]bool{}, pulses: map[string]bool{}, fresh: map[string]bool{}}
	join(v, &v.nodes, state.Nodes, func(id string, _, _ *v1.Node) { v.nodeChanged(id) })
	join(v, &v.nodeStatuses, state.NodeStatuses, func(id string, _, _ *v1.NodeStatus) { v.pulses[id] = true })
	join(v, &v.alive, state.Alive, func(id string, _, _ *emptypb.Empty) { v.nodeChanged(id) })
	join(v, &v.absences, state.Absences, func(id string, _, _ *statepb.Absence) { v.pulses[id] = true; v.touchAt(id) })
	join(v, &v.pools, state.Pools, v.poolChanged)
	join(v, &v.poolStatuses, state.PoolStatuses, v.poolStatusChanged)
	join(v, &v.volumes, state.Volumes, v.volumeChanged)
	join(v, &v.verdicts, state.Verdicts, nil)
	join(v, &v.assignments, state.Assignments, func(id string, _, _ *statepb.Assignment) { v.fold(id) })
	join(v, &v.records, state.Records, func(id string, _, _ *statepb.Record) { v.fold(id) })
	join(v, &v.holdings, state.Holdings, v.holdingChanged)
	join(v, &v.condemned, state.Condemned, func(id string, _, _ *statepb.Condemned) { v.suspects[id] = true })
	join(v, &v.strays, state.Strays, nil)
	join(v, &v.attachments, state.Attachments, v.attachmentChanged)
	join(v, &v.snapshots, state.Snapshots, v.snapshotChanged)
	join(v, &v.snapStatuses, state.SnapshotStatuses, func(id string, _, _ *v1.SnapshotStatus) { v.touchSnapshot(id) })
	join(v, &v.policies, state.Policies, func(string, *v1.SnapshotPolicy, *v1.SnapshotPolicy) { v.touchAll() })
	join(v, &v.marks, state.ScheduleMarks, nil)
	join(v, &v.births, state.Births, func(key string, _, _ *emptypb.Empty) { v.birthChanged(key) })
	join(v, &v.operations, state.Operations, v.operationChanged)
	join(v, &v.events, state.Events, nil)
	v.tables["names"] = nameTable(v.names)
	v.tables["settings"] = settingsTable{v}
	return v
}

// join makes a table a part of the view.
func join[T proto.Message](v *view, t *table[T], of state.Table[T], changed func(id string, was, now T)) {
	*t = table[T]{Table: of, entries: map[string]state.Entry[T]{}, changed: changed}
	v.tables[first(of.Prefix)] = t
}

// first returns the first word of a key.
func first(key string) string {
	word, _, _ := strings.Cut(strings.TrimPrefix(key, state.Root), "/")
	return word
}

// put takes over an item.
func (v *view) put(item state.Item) error {
	if t := v.tables[first(item.Key)]; t != nil {
		v.fresh[first(item.Key)] = true
		return t.put(item)
	}
	return nil // somebody else's
}

// apply takes over what was told.
func (v *view) apply(b state.Batch) error {
	for _, e := range b.Events {
		if e.Deleted {
			if t := v.tables[first(e.Key)]; t != nil {
				v.fresh[first(e.Key)] = true
				t.drop(e.Key, e.Revision)
			}
			continue
		}
		if err := v.put(e.Item); err != nil {
			return err
		}
	}
	v.revision = max(v.revision, b.Revision)
	return nil
}

// commit takes over ops that were done at a revision.
func (v *view) commit(ops []state.Op, at state.Revision) error {
	for _, op := range ops {
		switch t := v.tables[first(op.Key)]; {
		case t == nil:
		case op.Does == state.DoesPut:
			v.fresh[first(op.Key)] = true
			if err := t.put(state.Item{Key: op.Key, Value: op.Value, Revision: at}); err != nil {
				return err
			}
		case op.Does == state.DoesDelete:
			v.fresh[first(op.Key)] = true
			t.drop(op.Key, at)
		}
	}
	return nil
}

// nameTable holds the ids below names/.
type nameTable map[string]string

func (t nameTable) put(item state.Item) error         { t[item.Key] = string(item.Value); return nil }
func (t nameTable) drop(key string, _ state.Revision) { delete(t, key) }
func (t nameTable) list() []string                    { return nil }

// settingsTable holds the one entry below settings/.
type settingsTable struct{ v *view }

func (t settingsTable) put(item state.Item) error {
	e, err := state.Settings.Decode(item)
	if err != nil {
		return err
	}
	if e.ID == state.SettingsID {
		t.v.adopt(settingsOf(e.Value))
	}
	return nil
}

func (t settingsTable) drop(string, state.Revision) { t.v.adopt(settingsOf(nil)) }
func (t settingsTable) list() []string              { return nil }

// adopt makes settings hold.
func (v *view) adopt(s settings) {
	v.settings = s
	v.cluster = nil
	v.touchAll()
}

func (v *view) touchAll() {
	for id := range v.volumes.entries {
		v.touched[id] = true
	}
}

func (v *view) volumeChanged(id string, was, now *v1.Volume) {
	if s := was.GetSpec().GetSourceSnapshotId(); s != "" {
		v.clones.drop(s, id)
	}
	if s := now.GetSpec().GetSourceSnapshotId(); s != "" {
		v.clones.add(s, id)
	}
	v.fold(id)
}

func (v *view) holdingChanged(id string, was, now *statepb.Holding) {
	v.suspects[id] = true
	if was != nil {
		v.holds.drop(was.VolumeId, id)
		v.fold(was.VolumeId)
	}
	if now != nil {
		v.holds.add(now.VolumeId, id)
		v.fold(now.VolumeId)
	}
}

func (v *view) snapshotChanged(id string, was, now *v1.Snapshot) {
	if was != nil {
		v.snaps.drop(was.Spec.GetVolumeId(), id)
		v.groups.drop(was.Spec.GetGroupId(), id)
		v.touched[was.Spec.GetVolumeId()] = true
	}
	if now != nil {
		v.snaps.add(now.Spec.GetVolumeId(), id)
		if g := now.Spec.GetGroupId(); g != "" {
			v.groups.add(g, id)
		}
		v.touched[now.Spec.GetVolumeId()] = true
	}
}

// touchSnapshot has a snapshot's volume, and the volumes that begin with it, looked at.
func (v *view) touchSnapshot(id string) {
	if s := v.snapshots.value(id); s != nil {
		v.touched[s.Spec.GetVolumeId()] = true
	}
	for volume := range v.clones[id] {
		v.touched[volume] = true
	}
}

// touchAt has the volumes at a node or pool looked at.
func (v *view) touchAt(id string) {
	for volume := range v.at[id] {
		v.touched[volume] = true
	}
}

func (v *view) attachmentChanged(id string, was, now *v1.Attachment) {
	if was != nil {
		v.attached.drop(was.Spec.GetNodeId(), id)
	}
	if now != nil {
		v.attached.add(now.Spec.GetNodeId(), id)
	}
	v.fold(id)
}

func (v *view) operationChanged(id string, was, now *v1.Operation) {
	if delete(v.active, id); now != nil && !now.Done {
		v.active[id] = true
	}
	for _, op := range []*v1.Operation{was, now} {
		if op != nil && op.Kind == kindVolumeMove {
			v.touched[op.TargetId] = true
		}
		v.touchAt(op.GetTargetId())
		for _, s := range op.GetSteps() {
			v.touched[s.VolumeId] = true
		}
	}
}
