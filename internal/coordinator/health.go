package coordinator

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
)

// Condition is one thing that is not as it should be with a volume, for people: what is
// the matter, why, and what helps. A volume without conditions is healthy.
type Condition struct {
	Kind    ConditionKind
	Replica block.ReplicaID // that it is about; zero: none in particular
	Node    block.NodeID    // of the replica
	Cause   string          // a sentence without a full stop
	Cure    string          // a sentence in the imperative, without a full stop
}

// ConditionKind says how bad it is.
type ConditionKind uint8

// The kinds, the worst first.
const (
	Stuck    ConditionKind = iota + 1 // I/O waits
	Degraded                          // fewer replicas count than there are
	Slow                              // a replica holds up the others
	Settling                          // copies are being made equal after an owner died
	Waiting                           // a change can't be recorded
	Damaged                           // a replica could not read blocks, which were repaired from another
)

// String names the kind.
func (k ConditionKind) String() string {
	return [...]string{"", "Stuck", "Degraded", "Slow", "Settling", "Waiting", "Damaged"}[k]
}

const cureNone = "nothing to do: it ends by itself"

// Health returns what is not as it should be, the worst first.
func (c *Coordinator) Health(now time.Duration) (list []Condition) {
	about := func(m int, kind ConditionKind, cause, cure string) {
		x := c.rec.Members[m]
		list = append(list, Condition{kind, x.Replica, x.Node, cause, cure})
	}
	if c.phase == stopped {
		return []Condition{{Kind: Stuck, Cause: fmt.Sprintf("the volume is not served here any more: %v", c.why), Cure: "attach it again"}}
	}
	if c.phase == claiming {
		list = append(list, Condition{Kind: Stuck, Cause: "the volume's record does not name this node as the owner yet", Cure: "see that the metadata store can be reached"})
	}
	lost := 0
	for m, x := range c.members {
		switch {
		case !c.inSync(m) || x.linked && x.bad == nil && x.promised == c.rec.Epoch && now < x.lease:
		case x.linked && x.bad == nil && x.promised != c.rec.Epoch:
			about(m, Stuck, "I/O waits for the replica to admit this owner", "wait: the lease of the owner before has to run out; if it lasts, see the log of the replica's node")
		default:
			lost++
			cause, cure := c.absence(now, m)
			about(m, Stuck, "I/O waits for the replica: "+cause, cure)
		}
	}
	if lost > 0 && lost == c.rec.InSync() {
		for m := range c.members {
			if c.rec.Members[m].State == spec.Outdated && c.members[m].opened != nil {
				about(m, Stuck, "only replicas are left that lack writes. With this one would be lost: "+LossOf(c.rec, c.rec.Members[m].Replica),
					"bring a replica that is in sync back; if all of them are gone for good, accept the loss of data with this one")
			}
		}
	}
	for m, x := range c.members {
		if c.rec.Members[m].State == spec.Outdated {
			cause, cure := c.outdated(now, m)
			about(m, Degraded, cause, cure)
		}
		if x.slow != 0 {
			about(m, Slow, fmt.Sprintf("the others wait for the replica since %v", now-x.slow), "look at the disk and the network of the replica's node; it is left behind if this lasts")
		}
		if x.unreadable > 0 {
			about(m, Damaged, fmt.Sprintf("%d reads could not be served by the replica, and were by another one", x.unreadable), "replace the disk if this goes on")
		}
	}
	if n := c.gate.count(); n > 0 {
		list = append(list, Condition{Kind: Settling, Cause: fmt.Sprintf("%d regions of %d MiB are compared, because an owner died", n, block.RegionSize>>20), Cure: cureNone})
	}
	if c.unknown {
		list = append(list, Condition{Kind: Waiting, Cause: "a change of the volume's record is not confirmed", Cure: "see that the metadata store can be reached"})
	}
	return list
}

// absence says why a member that counts does not answer.
func (c *Coordinator) absence(now time.Duration, m int) (cause, cure string) {
	x := c.members[m]
	cure = "bring the replica's node back"
	switch {
	case x.bad != nil:
		what, better := fault.Describe(x.bad)
		if better != "" {
			cure = better
		}
		return what, cure
	case !x.linked && x.refusal != nil:
		return refused(x.refusal)
	case !x.linked:
		return "it can't be reached", cure
	}
	return fmt.Sprintf("it was not heard of for %v", now-x.heard), cure
}

// refused says why a member's node does not talk to this one.
func refused(why error) (cause, cure string) {
	what, cure := fault.Describe(why)
	switch {
	case cure == "" && fault.Is(why, fault.Unsupported):
		cure = "run the same version of holdfast on all nodes"
	case cure == "":
		cure = "see the log of the replica's node"
	}
	return "its node and this one do not talk to each other: " + what, cure
}

// outdated says how a member stands that does not count.
func (c *Coordinator) outdated(now time.Duration, m int) (cause, cure string) {
	x := c.members[m]
	why := ""
	if x.cause != nil {
		what, _ := fault.Describe(x.cause)
		why = ", left behind because " + what
	}
	switch s := x.sync; {
	case !x.linked && x.refusal != nil:
		what, cure := refused(x.refusal)
		return "the replica lacks writes, and " + what + why, cure
	case !x.linked:
		return "the replica lacks writes and can't be reached" + why, "bring the replica's node back, or replace the replica"
	case x.leaving:
		return "the replica's node restarts", cureNone
	case now < x.parole:
		return fmt.Sprintf("the replica is left alone for %v, because it failed too often%s", (x.parole - now).Round(time.Second), why), "nothing to do if what was the matter is mended, as it is brought up to date then; else look at the disk and the network of the replica's node"
	case c.resyncs.Pause:
		return "the replica lacks writes, and resyncs are paused" + why, "holdfast cluster set pause_resync=false"
	case x.syncFailed != nil && (s == nil || s.moved == 0):
		what, cure := fault.Describe(x.syncFailed)
		if cure == "" {
			cure = "see the log of the replica's node; it is tried again"
		}
		return "the replica could not be brought up to date: " + what, cure
	case s == nil:
		return "the replica lacks writes and waits to be brought up to date" + why, cureNone
	}
	return fmt.Sprintf("the replica is being brought up to date%s: %d of %d regions are left", why, len(x.sync.todo), x.sync.total), cureNone
}

// Sync is how far a replica has come that catches up.
type Sync struct {
	Member      int
	Replica     block.ReplicaID
	Generation  block.Generation // the snapshot that it is getting; 0 the live generation
	RegionsLeft int              // of this generation, to be compared
	Regions     int              // there were
	Moved       int64            // bytes, since it began
	Began       time.Duration    // for the rate, and an estimate of the end
}

// Syncing reports whether a replica catches up.
func (c *Coordinator) Syncing() bool { return c.syncs() > 0 }

// Syncs returns how far the replicas have come that catch up.
func (c *Coordinator) Syncs() (list []Sync) {
	for m, x := range c.members {
		if s := x.sync; s != nil {
			list = append(list, Sync{m, c.rec.Members[m].Replica, s.gen, len(s.todo) + len(s.missed), s.total, s.moved, s.began})
		}
	}
	return list
}

// HealthOf returns what is not as it should be with a volume that nobody has attached, as
// far as its record tells.
func HealthOf(rec spec.Record) (list []Condition) {
	if rec.InSync() == 0 {
		list = append(list, Condition{Kind: Stuck, Cause: "no replica holds every acknowledged write", Cure: "restore the volume from a backup"})
	}
	for _, m := range rec.Members {
		if m.State == spec.Outdated {
			list = append(list, Condition{Degraded, m.Replica, m.Node, "the replica lacks writes", "attach the volume: it is brought up to date then"})
		}
	}
	return list
}
