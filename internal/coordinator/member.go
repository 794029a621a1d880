package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/lineage"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// member is what the coordinator knows of one replica of the record.
type member struct {
	linking bool // a connection is being made
	linked  bool
	version wire.Version
	refusal error         // why its node would not talk, the last time
	closing bool          // the connection was given up; its end is not told yet
	retry   time.Duration // when to link, or to ask again
	opened  *wire.Opened  // what it said of itself on this connection
	bad     error         // it failed: it must be left behind before anything completes

	asking   bool          // a Promise is under way
	promised block.Epoch   // on this connection
	lease    time.Duration // until when its lease may be relied on
	renewing bool
	heard    time.Duration // when its last message came

	incarnation uint64 // of the process that has this volume's writes; 0 not known yet
	boot        uint64

	size        int64 // bytes
	resizing    bool
	refusedSize error
	trim        bool // it may know snapshots that don't exist
	trimming    bool
	preparing   bool
	prepared    block.Generation // that it knows to be about to end
	sealing     bool
	old         bool // it counts, and must not: its data is older than the record
	oldSince    block.Epoch
	unreadable  int // reads that it could not serve, for health
	unread      int // of them, those since unreadFrom
	unreadFrom  time.Duration
	badSources  members       // that could not say what to fill it with
	slow        time.Duration // since when it is slow; 0 it is not
	parole      time.Duration // when it may catch up again after it was slow
	counted     time.Duration // since when it counts, if it began to under this coordinator
	offences    int           // how often it was left behind for that
	cause       error         // why it was left behind last
	leaving     bool          // its process is about to end on purpose
	doubt       wire.State    // it counts, and what was not flushed may be missing: see excuse; else 0
	amend       amends        // it was excused, and is to be told that it is whole; else 0
	amending    bool
	badSince    time.Duration // when bad was set
	syncFailed  error         // why the last catching up did not come to its end

	asks    int           // questions that are not answered
	asked   time.Duration // when the first of them was asked
	sync    *syncing
	mark    uint64 // of its last flush, for Clean
	vouched uint64 // of the last flush that all have confirmed, see vouch
}

func (c *Coordinator) inSync(m int) bool { return c.rec.Members[m].State == spec.InSync }

// left reports whether member m is in the record no more.
func (c *Coordinator) left(m int) bool { return c.rec.Members[m].State == 0 }

// linked begins the conversation on a new connection.
func (c *Coordinator) linked(now time.Duration, ev Linked, fx *Effects) {
	m := ev.Member
	x := c.members[m]
	x.version = ev.Version
	if x.closing = c.left(m); x.closing { // it left while the connection was made
		x.linking = false
		fx.Unlink = append(fx.Unlink, m)
		return
	}
	x.linking, x.linked, x.opened, x.promised, x.asking, x.renewing, x.heard = false, true, nil, 0, false, false, now
	x.leaving, x.refusal = false, nil
	c.ask(m, &wire.Open{Volume: c.rec.Volume, Replica: c.rec.Members[m].Replica}, fx,
		func(now time.Duration, m int, msg wire.Message, fx *Effects) { c.openedUp(now, m, msg, fx) })
}

func (c *Coordinator) openedUp(now time.Duration, m int, msg wire.Message, fx *Effects) {
	x := c.members[m]
	if msg == nil {
		return
	}
	o, ok := msg.(*wire.Opened)
	if !ok {
		c.blame(m, failureOf(msg))
		return
	}
	if c.inSync(m) && x.bad != nil && c.proposed == nil && c.others(m) == 0 {
		x.bad = nil // the last one: the volume waited for it
	}
	if o.State == wire.Failed && !c.inSync(m) { // it will be opened anew
		x.retry = now + c.opts.Lease/2
		c.unlink(now, m, fx)
		return
	}
	if o.State == wire.Failed {
		c.blame(m, fault.E("coordinator", fault.Media, c.rec.Volume, fmt.Errorf("replica %v says that it failed", c.rec.Members[m].Replica)))
		return
	}
	if c.inSync(m) && x.incarnation != 0 && x.incarnation != o.Incarnation && x.boot != o.Boot {
		// Completed writes that were not flushed went with the machine's memory.
		c.lost = fault.E("coordinator.Flush", fault.Media, c.rec.Volume, fmt.Errorf("replica %v lost power with writes that were not flushed", c.rec.Members[m].Replica))
	}
	// One that is being taken back is sent writes, and may have lost them, as those that count.
	if x.incarnation != 0 && x.incarnation != o.Incarnation && (c.inSync(m) && c.others(m) > 0 || c.promoting(m)) {
		c.blame(m, fault.E("coordinator", fault.Unavailable, c.rec.Volume, fmt.Errorf("replica %v was restarted", c.rec.Members[m].Replica)))
	}
	if c.inSync(m) {
		if since, old := c.oldData(m, o); old {
			x.old, x.oldSince = true, since
			c.blame(m, fault.E("coordinator", fault.Precondition, c.rec.Volume, fmt.Errorf("replica %v holds old data: it has promised epoch %d and knows snapshots %v, where %d and %v were recorded",
				c.rec.Members[m].Replica, o.Promised, o.Snapshots, c.rec.Settled, c.rec.Snapshots)))
			x.trim = true
		}
	}
	if x.doubt = 0; c.inSync(m) && (o.State == wire.Lost || o.State == wire.Forgot) && (x.incarnation != o.Incarnation || x.boot != o.Boot) {
		x.doubt = o.State
	}
	copied := *o
	copied.Snapshots = slices.Clone(o.Snapshots)
	x.opened = &copied
	x.size, x.refusedSize = o.Size, nil
	x.leaving = o.State == wire.Leaving
	line := lineage.Line{Snapshots: c.generations()}
	x.trim = len(lineage.Surplus(line, lineage.Line{Snapshots: copied.Snapshots})) > 0
}

// oldData reports whether a replica that counts is not what it was when it began to, as
// one is that came out of a backup: since is the epoch from which on it may lack writes.
func (c *Coordinator) oldData(m int, o *wire.Opened) (since block.Epoch, old bool) {
	if o.Promised < c.rec.Settled {
		return o.Promised, true
	}
	for _, g := range c.rec.Snapshots {
		if !slices.Contains(o.Snapshots, g) {
			return 0, true
		}
	}
	return 0, false
}

// unlinked takes note of the end of a connection.
func (c *Coordinator) unlinked(now time.Duration, ev Unlinked, fx *Effects) {
	m := ev.Member
	x := c.members[m]
	x.refusal = ev.Why
	was := x.linked
	c.forget(now, m, fx)
	x.linking, x.closing = false, false
	x.retry = max(x.retry, now+c.opts.Lease/10)
	if was && c.inSync(m) && c.phase >= gating && c.leave.stage < releasing {
		c.blame(m, fault.E("coordinator", fault.Unavailable, c.rec.Volume, fmt.Errorf("the connection to replica %v was lost", c.rec.Members[m].Replica)))
	}
}

// unlink gives a connection up: what is still on its way is not for us any more.
func (c *Coordinator) unlink(now time.Duration, m int, fx *Effects) {
	x := c.members[m]
	if !x.linked {
		return // a connection that is being made is given up when it is there
	}
	x.closing = true
	fx.Unlink = append(fx.Unlink, m)
	c.forget(now, m, fx)
}

// forget ends the conversation. Answers that are missing will not come.
func (c *Coordinator) forget(now time.Duration, m int, fx *Effects) {
	x := c.members[m]
	x.mark, x.vouched = 0, 0 // names of another process's, for all that is known
	x.linked, x.opened, x.promised, x.asking, x.renewing, x.prepared = false, nil, 0, false, false, 0
	for i := 0; x.asks > 0 && i < len(c.slots); i++ {
		if s := &c.slots[i]; s.used && s.request == nil && s.member == m {
			c.asked(i)(now, m, nil, fx)
		}
	}
	c.abandonSync(m)
	for i, x := range c.members { // what it gave may be more than it has when it comes back
		if x.sync != nil && x.sync.source == m {
			x.syncFailed = errGone
			c.abandonSync(i)
		}
	}
}

// blame notes that a member can't go on.
func (c *Coordinator) blame(m int, err error) {
	c.urgent = true
	if c.members[m].bad == nil {
		c.members[m].bad, c.members[m].badSince = err, c.now
	}
	if fault.Planted("complete before the ejection is recorded") {
		for _, q := range c.active {
			q.need.drop(m)
		}
	}
	c.abandonSync(m)
}

// others counts the in-sync members besides m that are fit to go on.
func (c *Coordinator) others(m int) int {
	n := 0
	for i := range c.members {
		if i != m && c.inSync(i) && c.members[i].bad == nil && c.members[i].doubt == 0 && c.members[i].linked {
			n++
		}
	}
	return n
}

// settled reports whether every in-sync member has promised the record's epoch. While a
// change of the record is under way it goes on as before: until the outcome is known,
// whoever counts before or after the change must have what is completed.
func (c *Coordinator) settled() bool {
	for i := range c.members {
		if c.inSync(i) && (c.members[i].promised != c.rec.Epoch || c.members[i].bad != nil || c.members[i].doubt != 0) {
			return false
		}
	}
	return true
}

// ready reports whether requests may be served now: settled, and with every in-sync
// member's lease.
func (c *Coordinator) ready(now time.Duration) bool {
	if !c.settled() {
		return false
	}
	for i := range c.members {
		if c.inSync(i) && (now >= c.members[i].lease || c.members[i].amend == wholeFirst) {
			return false
		}
		if c.promoting(i) && !c.takesWrites(i) {
			return false
		}
	}
	return true
}

// promoting reports whether member m may be in sync already, as far as anybody knows.
func (c *Coordinator) promoting(m int) bool {
	return c.proposed != nil && m < len(c.proposed.Members) && !c.inSync(m) && c.proposed.Members[m].State == spec.InSync
}

// promise asks member m to promise the record's epoch.
func (c *Coordinator) promise(now time.Duration, m int, fx *Effects) {
	x := c.members[m]
	x.asking = true
	epoch := c.rec.Epoch
	// What this replica promised last was to this node: a lease that it granted and then
	// forgot was that of a process here which is dead.
	same := x.opened.Promised >= c.rec.OwnerSince
	c.ask(m, &wire.Promise{Epoch: epoch, Owner: c.opts.Node, Incarnation: c.opts.Incarnation, Lease: c.opts.Lease, SameNode: same}, fx,
		func(at time.Duration, m int, msg wire.Message, fx *Effects) {
			x.asking = false
			switch a := msg.(type) {
			case *wire.Promised:
				if a.Generation != x.opened.Generation && !c.inSync(m) {
					c.unlink(at, m, fx) // it has sealed a snapshot since it said what it has: that is asked anew
					return
				}
				x.promised = epoch
				x.incarnation, x.boot = x.opened.Incarnation, x.opened.Boot
				x.opened.Generation = a.Generation
				x.lease = now + c.usable(min(a.Lease, c.opts.Lease))
				if fault.Planted("lease counted from the answer") {
					x.lease = at + 2*c.opts.Lease
				}
				c.resend(m, fx)
			case *wire.Fail:
				if a.Status == fault.Busy {
					x.retry = at + max(a.Wait, time.Millisecond)
					return
				}
				c.blame(m, failureOf(msg))
			}
		})
}

// usable is the part of a lease that is relied on. It is counted from when the lease
// was asked for; the replica counts from later.
func (c *Coordinator) usable(lease time.Duration) time.Duration {
	return lease - time.Duration(float64(lease)*c.opts.Margin)
}

// renew prolongs the lease of member m.
func (c *Coordinator) renew(now time.Duration, m int, fx *Effects) {
	x := c.members[m]
	x.renewing = true
	c.ask(m, &wire.Renew{Epoch: c.rec.Epoch, Sequence: uint64(now)}, fx, func(at time.Duration, m int, msg wire.Message, fx *Effects) {
		x.renewing = false
		if f, ok := msg.(*wire.Fail); ok && f.Status == fault.Fenced { // not by another owner: it was opened anew
			if c.blame(m, failureOf(msg)); !c.inSync(m) {
				c.unlink(at, m, fx)
			}
			return
		}
		if _, ok := msg.(*wire.Renewed); ok {
			x.lease = max(x.lease, now+c.usable(c.opts.Lease))
			if fault.Planted("lease counted from the answer") {
				x.lease = at + 2*c.opts.Lease
			}
		}
	})
}

// tick looks at what time alone can change.
func (c *Coordinator) tick(now time.Duration, fx *Effects) {
	if c.phase == claiming || c.leave.stage >= releasing {
		return
	}
	for m := range c.members {
		x := c.members[m]
		c.watchSpeed(now, m)
		if x.linked && x.promised != 0 && !x.renewing && x.promised == c.rec.Epoch && x.lease-now < c.opts.Lease*2/3 {
			c.renew(now, m, fx)
		}
		if silent := now - max(x.heard, x.asked); c.inSync(m) && x.linked && x.asks > 0 && silent > c.opts.ReplicaTimeout && c.others(m) > 0 {
			c.blame(m, fault.E("coordinator", fault.Timeout, c.rec.Volume, fmt.Errorf("replica %v has been silent for %v", c.rec.Members[m].Replica, silent)))
		}
		if c.inSync(m) && x.bad != nil && x.linked && c.proposed == nil && now-x.badSince > c.opts.Lease && !c.canSpare(m) {
			c.unlink(now, m, fx) // there is none but it: perhaps it is better by now
			x.retry = now + c.opts.Lease/10
		}
		if c.inSync(m) && !x.linked && c.phase == gathering && now-c.since > c.opts.ReplicaTimeout {
			c.blame(m, fault.E("coordinator", fault.Unavailable, c.rec.Volume, fmt.Errorf("replica %v can't be reached", c.rec.Members[m].Replica)))
		}
	}
}

func failureOf(msg wire.Message) error {
	if f, ok := msg.(*wire.Fail); ok && f.Status == fault.Unsupported {
		return fault.WithCure(fault.Errorf("coordinator", f.Status, "the replica's node does not understand: %s", f.Text), "run the same version of holdfast on all nodes")
	} else if ok {
		return fault.Errorf("coordinator", f.Status, "the replica says: %s", f.Text)
	}
	return fault.Errorf("coordinator", fault.Internal, "the replica answered with %T", msg)
}
