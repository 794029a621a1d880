// Package simdisk is a [host.Disk] in memory that does, by seed, what real disks do
// to those who trust them too much: it completes operations out of order, loses what
// was not synced when power fails, tears writes at 512 bytes, fills up, stalls,
// reports errors, drops data in a failed sync, and misdirects, loses and rots data
// without a word.
//
// # Durability
//
// What is written is volatile until OpSync of its file or OpSyncAll. That goes for
// bytes, size, holes and allocation. Changes of names (creation, rename, link,
// removal, mkdir) are volatile until OpSyncDir of every directory whose table they
// change, or OpSyncAll: OpSync of a new file does not make its name durable, and
// OpSyncDir does not make its bytes durable.
//
// [Disk.Crash] is the loss of power. Of what was volatile, nothing survives, or all
// of it, or a random part:
//
//   - of bytes, each 512-byte sector with the old, the new or an overwritten unsynced
//     version; a page that was punched or cut off, whole or not at all;
//   - the old size, the new one, or one between them when the file grew, with zeros
//     where bytes did not survive;
//   - of each directory's changes of names, the first few; a rename survives in both
//     directories or in neither; a directory that is gone was emptied before.
//
// Operations in flight may be among what survives. [Disk.Kill] is the death of the
// process: all that completed stays visible, and as volatile as it was; operations in
// flight have happened, or not, or, for writes, in part.
//
// # Time
//
// A disk stands alone, and Poll completes operations in an order drawn by the seed;
// or it is part of a simulation, which is handed each completion as an event, see
// [Options.Schedule]. Either way everything is determined by the seed and the calls:
// the same ones give the same [Options.Trace].
//
// Beside Submit, Poll and InFlight, the methods act from outside, as the tester's
// hand: they take no time, need no Poll and appear in no trace, Crash and Kill
// excepted. Like a real disk, a Disk is driven by one goroutine.
package simdisk

import (
	"math/rand/v2"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Options say what disk New makes.
type Options struct {
	Seed uint64 // every choice that the disk makes follows from it

	// Capacity is the space for files, in bytes, in pages of 4 KiB; names cost none.
	// 0 means CapacityDefault.
	Capacity int64

	// Schedule, when set, makes the disk part of a simulation: for each operation it
	// is called once, from Submit, and must arrange for fire to be called later, after
	// a latency that the simulation draws and delay in addition, which is 0 but for
	// stalls. fire performs the operation and calls Done; Poll does nothing. fire may
	// be called, in vain, after the disk has died.
	Schedule func(delay time.Duration, fire func())

	// InOrder makes a disk that stands alone complete operations in the order in which
	// they were submitted, so that a transcript does not change with the seed.
	InOrder bool

	// Trace, when set, is given one line for each operation performed, such as
	// "write chunks/00000000.000001 off=262144 len=4096". What did not go well follows
	// an equals sign: "open replica.json = not found". What a crash or kill lets
	// happen of the operations in flight is told as "landed: ...".
	Trace func(line string)
}

// CapacityDefault is the capacity of a disk for which none is given: 1 TiB.
const CapacityDefault = 1 << 40

// Disk is a simulated disk, together with the process that uses it: when one of them
// dies, Crash or Kill returns the Disk that the next process finds.
type Disk struct {
	schedule func(time.Duration, func())
	trace    func(string)
	inOrder  bool

	source rand.PCG // of rand, here so that a clone can go on with the same draws
	rand   *rand.Rand

	// The medium, and what the machine remembers of it.
	capacity int64
	used     int64 // bytes
	inodes   map[ino]*inode
	inoLast  ino
	stamp    stamp
	journal  []change // changes of names that are not durable, oldest first
	faults   faults

	// The process.
	handles    map[host.File]*handle
	handleLast host.File
	queue      queue
	ops        int // performed, see Ops
	opsMax     int // see CrashAfter; negative for none
	dead       bool
}

// New returns an empty disk.
func New(o Options) *Disk {
	if o.Capacity == 0 {
		o.Capacity = CapacityDefault
	}
	d := &Disk{
		schedule: o.Schedule,
		trace:    o.Trace,
		inOrder:  o.InOrder,
		capacity: o.Capacity,
		inodes:   make(map[ino]*inode),
		handles:  make(map[host.File]*handle),
		opsMax:   -1,
	}
	d.Reseed(o.Seed)
	d.newInode(true).refs = 1 // the root
	return d
}

var _ host.Disk = (*Disk)(nil)

// Reseed makes all further choices follow from seed.
func (d *Disk) Reseed(seed uint64) {
	d.source = *rand.NewPCG(seed, 0x686f6c6466617374)
	d.rand = rand.New(&d.source)
}

// SetTrace changes Options.Trace; nil ends it.
func (d *Disk) SetTrace(trace func(line string)) { d.trace = trace }

// SetCapacity changes the capacity, in bytes. Below what is in use the disk is full.
func (d *Disk) SetCapacity(bytes int64) { d.capacity = bytes }

// Ops returns how many operations were performed that can matter to what a crash
// leaves behind: all but read, stat, list, space, close, and open without Create.
// Operations that were performed and failed count.
func (d *Disk) Ops() int { return d.ops }

// CrashAfter makes the disk die instead of performing the operation after the n-th
// of those that Ops counts, from the beginning and not from now. From then on nothing
// takes effect and no Done is called; the state of the disk is for Crash or Kill, or
// for Clone and then those. A negative n takes the order back.
//
// So, for n from 0 up to what Ops is after a run without CrashAfter, it stops the
// same run at every point that leaves a different state.
func (d *Disk) CrashAfter(n int) { d.opsMax = n }

// Dead reports whether the disk is dead, by CrashAfter, Crash or Kill.
func (d *Disk) Dead() bool { return d.dead }

// death is what Poll panics with on a disk that is dead.
type death struct{}

// Survives calls f and returns true, or false when f could not go on because it
// waited for a disk that is dead: a process that dies there.
func Survives(f func()) (alive bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(death); !ok {
				panic(r)
			}
			alive = false
		}
	}()
	f()
	return true
}

// bad makes the error of an operation.
func bad(op *host.Op, kind fault.Kind, format string, args ...any) error {
	return fault.Errorf("simdisk."+verb(op.Kind), kind, format, args...)
}
