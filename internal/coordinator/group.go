package coordinator

import (
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// GroupPhase is how far a member of a group's snapshot has come, as its status says.
type GroupPhase string

// The phases in their order; before the first one nobody has spoken for the member.
const (
	GroupHere   GroupPhase = "here"   // its head serves
	GroupFrozen GroupPhase = "frozen" // its filesystem is frozen, if that was asked for and there is one
	GroupHeld   GroupPhase = "held"   // it holds its writes
	GroupTaken  GroupPhase = "taken"  // it has taken its snapshot
)

var groupPhases = []GroupPhase{"", GroupHere, GroupFrozen, GroupHeld, GroupTaken}

// GroupWait is how long the heads of a group wait for each other before any holds its
// writes: one whose volume is not attached has to be claimed first.
const GroupWait = 30 * time.Second

// GroupStatus is what was said of a member last.
type GroupStatus struct {
	Name       string // of its snapshot
	Phase      GroupPhase
	Generation block.Generation // that it got, if it got one
	Ready      bool             // its snapshot is there
	Problem    string           // why there is none
	Deleted    bool             // nobody wants it any more
	Revision   int64            // of the status; 0 there is none
}

// Group takes a volume's part of a snapshot of several volumes at one moment. The members
// say that they are here; only then, so that nobody's writes wait for a node that is away,
// do all hold their writes, wherever they are attached, and say so. When all have said so,
// which is the moment, each takes its snapshot; and when all have, writes go on. A member
// that can't makes it nobody's.
//
// What makes it one moment: a member's snapshot counts only if its hold lasted from before
// it said that it holds until after all have taken theirs. So there was a moment when all
// held. It takes that one head alone speaks for a member: an owner of before may have said
// that it has taken its snapshot, and the others rely on that. So each word is said in
// place of the one before, or not at all.
//
// The caller asks Next what to do, does it, and tells how that went by Said or Done.
type Group struct {
	opts     GroupOptions
	revision int64 // of the status
	at       int   // in the program
	until    time.Duration
	change   *Change // that was to be ordered last
	got      block.Generation
	held     bool
	err      error
}

// GroupOptions say what is asked for.
type GroupOptions struct {
	Freeze bool // filesystems are frozen first
	// Wait is how long the members wait for each other before they hold, and Hold how long
	// they hold at most; 0 is GroupWait, and HoldMax.
	Wait, Hold time.Duration
}

// GroupOp is what a member does.
type GroupOp uint8

// What Next may want.
const (
	GroupWaits   GroupOp = iota // for the others, until GroupStep.Until
	GroupSays                   // that it has come as far as Phase; then Said
	GroupFreezes                // its filesystem; then Done
	GroupOrders                 // Change; then Done
	GroupEnds                   // with Err, or the snapshot is there: this is to be said in place of Revision
)

// GroupStep is what a member is to do now.
type GroupStep struct {
	Op         GroupOp
	Phase      GroupPhase       // of GroupSays; of GroupWaits, that of the others
	Revision   int64            // of GroupSays and GroupEnds: of the status that it takes the place of
	Generation block.Generation // of GroupSays and GroupEnds
	Until      time.Duration    // of GroupWaits: when to ask again at the latest
	Change     *Change          // of GroupOrders
	Err        error            // of GroupEnds
}

// groupStep is a line of the program that every member follows.
type groupStep struct {
	op     GroupOp
	phase  GroupPhase
	change ChangeOp
	freeze bool // only where filesystems are frozen
}

var groupProgram = []groupStep{
	{op: GroupSays, phase: GroupHere},
	{op: GroupWaits, phase: GroupHere},
	{op: GroupFreezes, freeze: true},
	{op: GroupSays, phase: GroupFrozen, freeze: true},
	{op: GroupWaits, phase: GroupFrozen, freeze: true}, // to write out what they have in memory may take longer than writes may be held
	{op: GroupOrders, change: Hold},
	{op: GroupSays, phase: GroupHeld},
	{op: GroupWaits, phase: GroupHeld},
	{op: GroupOrders, change: Snapshot},
	{op: GroupSays, phase: GroupTaken},
	{op: GroupWaits, phase: GroupTaken},
	{op: GroupOrders, change: Release},
	{op: GroupEnds},
}

const groupEnd = 12 // of the program

// NewGroup goes on from what the member's status says: one that has begun with a head of
// before can't be ended by another.
func NewGroup(own GroupStatus, o GroupOptions) *Group {
	if o.Wait == 0 {
		o.Wait = GroupWait
	}
	if o.Hold == 0 {
		o.Hold = HoldMax
	}
	g := &Group{opts: o, revision: own.Revision}
	switch own.Phase {
	case "":
	case GroupHere:
		g.at = 1
	default:
		g.got = own.Generation
		g.fail(fault.Errorf("coordinator.Group", fault.Canceled, "it was interrupted while the group's snapshot was taken"))
	}
	return g
}

// Stale reports whether somebody else has spoken for the member.
func (g *Group) Stale(own GroupStatus) bool { return own.Revision != g.revision }

// Next returns what the member is to do now, where the others have come as far as they say.
func (g *Group) Next(now time.Duration, others []GroupStatus) GroupStep {
	for {
		s := groupProgram[g.at]
		switch {
		case s.freeze && !g.opts.Freeze:
		case s.op == GroupWaits:
			behind, err := groupBehind(others, s.phase)
			switch {
			case err != nil:
				g.fail(err)
				continue
			case behind != nil && now >= g.deadline(now):
				g.fail(fault.Errorf("coordinator.Group", fault.Timeout, "snapshot %s of the group was not %s in time", behind.Name, s.phase))
				continue
			case behind != nil && !(g.held && fault.Planted("members of a group do not wait")):
				return GroupStep{Op: GroupWaits, Phase: s.phase, Until: g.deadline(now)}
			}
			if !g.held {
				g.until = 0
			}
		case s.op == GroupOrders:
			return GroupStep{Op: GroupOrders, Change: g.order(now, s.change)}
		default:
			revision := g.revision
			if fault.Planted("heads of before speak for a group member") {
				revision = -1
			}
			return GroupStep{Op: s.op, Phase: s.phase, Revision: revision, Generation: g.got, Err: g.err}
		}
		g.at++
	}
}

// deadline is until when the member waits for the others.
func (g *Group) deadline(now time.Duration) time.Duration {
	if g.until == 0 {
		g.until = now + g.opts.Wait
	}
	return g.until
}

// order makes the change that is the member's next step.
func (g *Group) order(now time.Duration, op ChangeOp) *Change {
	g.change = &Change{Op: op, Generation: g.got}
	switch op {
	case Hold:
		g.until = now + g.opts.Hold
		g.change.Until = g.until
	case Snapshot:
		g.change.Held = true
	case Release:
		g.change.Drop = g.err != nil
	}
	return g.change
}

// Said tells that the status says now what it was to say, as of a revision.
func (g *Group) Said(revision int64) {
	g.revision = revision
	g.at++
}

// Done tells how a step went.
func (g *Group) Done(err error) {
	s := groupProgram[g.at]
	switch {
	case err != nil && s.change == Release, s.op == GroupEnds:
		if g.err == nil { // when it is dropped anyway, it does not matter that writes went on before
			g.err = err
		}
		g.at = groupEnd
		return
	case err != nil:
		g.fail(err)
		return
	case s.change == Hold:
		g.got, g.held = g.change.Generation, true
	}
	g.at++
}

// fail makes it nobody's; writes that are held go on first.
func (g *Group) fail(err error) {
	g.err = err
	if g.at = groupEnd; g.held {
		g.at = groupEnd - 1
	}
}

// groupBehind returns another member that has not come as far as phase, nil for none. An
// error says that one failed, and so the group.
func groupBehind(others []GroupStatus, phase GroupPhase) (behind *GroupStatus, err error) {
	for i, o := range others {
		switch {
		case o.Ready, slices.Index(groupPhases, o.Phase) >= slices.Index(groupPhases, phase):
		case o.Problem != "":
			return nil, fault.Errorf("coordinator.Group", fault.Unavailable, "snapshot %s of the group failed: %s", o.Name, o.Problem)
		case o.Deleted:
			return nil, fault.Errorf("coordinator.Group", fault.Canceled, "snapshot %s of the group was deleted", o.Name)
		default:
			behind = &others[i]
		}
	}
	return behind, nil
}
