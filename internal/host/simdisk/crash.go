package simdisk

import (
	"math/rand/v2"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Keep says how much of what was not durable survives the loss of power.
type Keep uint8

// How much survives.
const (
	KeepNone Keep = iota // only what is durable
	KeepSome             // of the rest, and of operations in flight, what the seed chooses
	KeepAll              // all of it, operations in flight included
)

// String names the choice.
func (k Keep) String() string {
	return [...]string{KeepNone: "none", KeepSome: "some", KeepAll: "all"}[k]
}

// Crash is the loss of power. It returns the disk as it is found after the restart:
// no handle is open, no lock is held, nothing is in flight, Ops is 0, and all that
// survived is durable. d is dead: its operations are never done.
func (d *Disk) Crash(keep Keep) *Disk {
	d.report("crash keep=" + keep.String())
	d.mustBeWhole()
	for _, op := range d.inFlight() {
		if keep == KeepAll || keep == KeepSome && d.coin() {
			d.land(op)
		}
	}
	switch keep {
	case KeepSome:
		d.settleSome()
	case KeepAll:
		d.settleAll()
	}
	after := d.successor()
	after.journal, after.used = nil, 0
	survivors := after.inodes
	after.inodes = make(map[ino]*inode)
	after.revive(root, survivors, keep)
	after.inodes[root].refs++
	return after
}

// Kill is the death of the process while the machine goes on. Each operation in
// flight has happened, or has not, or, when it is a write, has in part. It returns
// the disk for the next process: no handle is open, no lock is held, Ops is 0, and
// what was volatile is so still. d is dead: its operations are never done.
func (d *Disk) Kill() *Disk {
	d.report("kill")
	d.mustBeWhole()
	for _, op := range d.inFlight() {
		switch d.rand.IntN(3) {
		case 0:
			d.land(op)
		case 1:
			if h := d.handles[op.File]; op.Kind == host.OpWrite && d.check(op) == nil {
				d.reportOp("landed in part", op)
				d.writePart(h.inode, op)
			}
		}
	}
	for f := range d.handles {
		d.close(f)
	}
	return d.successor()
}

func (d *Disk) report(line string) {
	if d.trace != nil {
		d.trace(line)
	}
}

func (d *Disk) reportOp(how string, op *host.Op) {
	if d.trace != nil {
		d.trace(how + ": " + traceRequest(op, d.pathOf(op)))
	}
}

func (d *Disk) mustBeWhole() {
	if d.inodes == nil {
		panic(fault.Bug("simdisk: this disk has crashed or been killed before: use the one that was returned"))
	}
}

// land performs an op whose process will never know.
func (d *Disk) land(op *host.Op) {
	if !changes(op) {
		return
	}
	c := *op
	if d.check(&c) == nil {
		d.reportOp("landed", op)
		_ = d.apply(&c, 0) // which may fail: nobody is there to be told
	}
}

// successor returns the disk that the next process uses, and leaves d dead and empty.
func (d *Disk) successor() *Disk {
	after := *d
	after.rand = rand.New(&after.source)
	after.handles = make(map[host.File]*handle)
	after.queue = queue{}
	after.ops, after.opsMax, after.dead = 0, -1, false
	d.dead, d.inodes, d.journal, d.handles = true, nil, nil, nil
	return &after
}

// revive brings inode i, and what is below it, over from before the crash.
func (d *Disk) revive(i ino, from map[ino]*inode, keep Keep) {
	n := d.inodes[i]
	if n == nil {
		n = d.survivor(from[i], keep)
		d.inodes[i] = n
		d.used += n.now.pages.used() * pageSize
		for _, e := range n.names.list {
			d.revive(e.ino, from, keep)
		}
	}
	if i != root {
		n.links++
		n.refs += 2 // by the name that is seen and the same one that is kept
	}
}

// survivor returns what is left of an inode.
func (d *Disk) survivor(old *inode, keep Keep) *inode {
	n := &inode{id: old.id, dir: old.dir}
	n.names, n.namesKept = old.namesKept.share(), old.namesKept.share()
	switch keep {
	case KeepSome:
		n.now = d.mix(old)
	case KeepAll:
		old.sync(d.stampNext)
		n.now = old.kept
	default:
		n.now = old.kept
	}
	n.kept = n.now
	n.own = d.stampNext()
	n.base = n.own
	return n
}
