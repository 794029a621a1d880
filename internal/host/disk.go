// Package host is the machine as the rest of Holdfast sees it: disk, clock and
// randomness as interfaces, and the real ones.
//
// A [Disk] is a directory whose files are reached by submitting [Op]s and being told
// of their completion, so that one goroutine can keep hundreds of operations in
// flight. Two disks exist: [Open] gives the real one (an io_uring ring, or a pool of
// blocking calls where the kernel has no ring), and package simdisk a simulated one
// that crashes, tears, rots, fills up and stalls by seed. Both pass
// hosttest.TestDisk.
package host

import "time"

// File is a handle that OpOpen returned, good on the Disk that gave it until OpClose.
type File int32

// Kind says what an Op does.
type Kind uint8

// The operations. "Durable" means that it survives the loss of power.
const (
	// OpRead fills Buf from Offset of File. N is the number of bytes read; fewer
	// than len(Buf) only at the end of the file.
	OpRead Kind = iota + 1
	// OpWrite writes all of Buf at Offset of File. Durable only after OpSync.
	OpWrite
	// OpSync makes all that was written to File (data, size, allocation, holes)
	// and completed before this op was submitted durable. If it fails, what it
	// should have made durable may be lost and a later OpSync may falsely succeed.
	OpSync
	// OpPunch makes Length bytes at Offset of File read as zeros and gives their
	// space back. The file's size does not change.
	OpPunch
	// OpAllocate reserves space for Length bytes at Offset of File, without changing
	// what they read as. The file's size does not change. Unsupported is a legal
	// answer: it is advice.
	OpAllocate
	// OpTruncate sets the size of File to Length; new bytes read as zeros.
	OpTruncate
	// OpStat returns size, links and allocated bytes of File in Stat.
	OpStat
	// OpOpen opens Path according to Flags and returns File. Directories in Path
	// must exist.
	OpOpen
	// OpClose gives File back. It does not make anything durable.
	OpClose
	// OpRename gives the file or directory Path the name To, replacing a file that is
	// there. Durable after OpSyncDir of both directories.
	OpRename
	// OpLink gives the file Path a further name To, which must not exist.
	OpLink
	// OpRemove removes the name Path, of a file or of an empty directory.
	OpRemove
	// OpMkdir makes the directory Path; the parent must exist.
	OpMkdir
	// OpList returns the names in the directory Path, in no particular order, in
	// Entries.
	OpList
	// OpSyncDir makes the names in the directory Path durable.
	OpSyncDir
	// OpSyncAll does OpSync and OpSyncDir for everything on the disk at once.
	OpSyncAll
	// OpSpace returns the size and the free bytes of the filesystem in Space.
	OpSpace
)

// Flags say how OpOpen opens.
type Flags uint8

const (
	// Create makes the file when it does not exist.
	Create Flags = 1 << iota
	// Exclusive, with Create, fails with fault.Exists when the file exists.
	Exclusive
	// Direct bypasses the page cache: Buf, Offset and len(Buf) of reads and writes
	// must be multiples of Align. Filesystems that can't do it are used without. Writes
	// leave the file's times alone where that is possible: keeping them is slow.
	Direct
	// ReadOnly refuses writes through this handle.
	ReadOnly
	// Lock takes the file's exclusive lock, or fails with fault.Busy when another
	// handle that was opened with Lock is open anywhere. The lock ends when the
	// handle is closed or its process is dead and every operation that the process
	// had in flight on it has ended.
	Lock
	// LockWait, with Lock, waits for the lock instead of failing. It is for files whose
	// lock nobody can hold but a process that is dead: until what it had in flight has
	// ended. Close waits for it, however long that takes.
	LockWait
	// Device also opens a block device, which else is refused as what is no file.
	Device
)

// Align is what buffers, offsets and lengths of a Direct file must be multiples of.
const Align = 4096

// Op is one operation. The caller fills the fields that the Kind names, sets Done,
// and leaves the Op, and its Buf, alone until Done is called. An Op may be used again
// after that; submitting one does not allocate.
type Op struct {
	Kind   Kind
	Flags  Flags // OpOpen
	File   File
	Offset int64
	Length int64
	Buf    []byte
	Path   string // slash-separated, relative to the disk's root; "." is the root
	To     string

	// Done is called once, from Disk.Poll, never from inside Submit.
	Done func(*Op)

	// Results, valid in Done. Err is a *fault.Error: NoSpace, Media, NotFound,
	// Exists, Busy, Denied, Unsupported, Invalid.
	Err     error
	N       int
	Stat    Stat
	Space   Space
	Entries []Entry

	next *Op // for queues inside a Disk
}

// Stat is the answer to OpStat.
type Stat struct {
	Size      int64 // bytes
	Allocated int64 // bytes of space in use
	Links     int   // names that the file has
}

// Space is the answer to OpSpace, in bytes.
type Space struct {
	Size int64 // of the whole filesystem
	Free int64 // that an unprivileged writer could still use
}

// Entry is one name in a directory.
type Entry struct {
	Name string
	Dir  bool
}

// Disk is a directory tree on some medium. A Disk is driven by one goroutine: it
// alone calls Submit and Poll. Operations that are in flight together may take effect
// in any order.
type Disk interface {
	// Submit hands over ops. It may hold them back until the next Poll, to send many
	// with one system call. It does not keep the slice; a caller that must not
	// allocate passes one of its own, for Submit(op) makes the compiler make one.
	Submit(ops ...*Op)
	// Poll sends what was submitted, calls Done for operations that have completed,
	// and returns how many there were. When there are none it waits for one, at most
	// for wait; 0 does not wait, and a negative wait is for ever. It returns at once
	// when nothing is in flight and wait is negative.
	Poll(wait time.Duration) int
	// InFlight returns how many submitted ops have not had Done called.
	InFlight() int
}

// Do submits one op and polls until it is done: for start-up, tools and tests. Other
// operations that complete meanwhile have their Done called.
func Do(d Disk, op *Op) error {
	done := false
	op.Done = func(*Op) { done = true }
	d.Submit(op)
	for !done {
		d.Poll(-1)
	}
	return op.Err
}

// Clock tells time since some fixed moment, without jumps; it is the only time that
// leases and time-outs may use.
type Clock interface {
	Now() time.Duration
}
