package simdisk

import (
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/holdfast-io/holdfast/internal/host"
)

// Clone returns a copy of the disk, as it is now, that goes its own way from here on.
// It stands alone and is not traced. Open handles are open in both. Operations in
// flight are in flight in both, in the clone as copies without Done. Given the same
// calls, both make the same choices, until one is given another seed by Reseed.
//
// Bytes are shared until one side changes them: the cost is that of the number of
// files, handles and operations in flight.
func (d *Disk) Clone() *Disk {
	d.mustBeWhole()
	d.stampNext()
	c := *d
	c.schedule, c.trace = nil, nil
	c.rand = rand.New(&c.source)
	c.journal = slices.Clone(d.journal)
	c.faults.rules = slices.Clone(d.faults.rules)

	c.inodes = make(map[ino]*inode, len(d.inodes))
	for i, n := range d.inodes {
		n.own = d.stamp
		copied := *n
		copied.names, copied.namesKept = n.names.share(), n.namesKept.share()
		copied.lost = maps.Clone(n.lost)
		c.inodes[i] = &copied
	}
	c.handles = make(map[host.File]*handle, len(d.handles))
	for f, h := range d.handles {
		c.handles[f] = &handle{inode: c.inodes[h.inode.id], path: h.path, flags: h.flags}
	}
	c.queue = queue{void: d.queue.void}
	for i, f := range d.queue.ready {
		c.queue.ready = append(c.queue.ready, &flight{op: orphan(f.op), at: i})
	}
	for _, f := range d.queue.stalled {
		c.queue.stalled = append(c.queue.stalled, &flight{op: orphan(f.op), delay: f.delay, lock: f.lock})
	}
	return &c
}

// orphan returns a copy of an op in flight that has its own buffer, as aligned as the
// original, and tells nobody.
func orphan(op *host.Op) *host.Op {
	c := *op
	c.Done = nil
	if host.Aligned(op.Buf) {
		c.Buf = host.Buffer(len(op.Buf))
	} else {
		c.Buf = host.Buffer(len(op.Buf) + 1)[1:]
	}
	copy(c.Buf, op.Buf)
	return &c
}
