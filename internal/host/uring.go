package host

import (
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The part of the kernel's interface that a ring here uses: linux/io_uring.h.
const (
	setupCQSize       = 1 << 3
	setupDisabled     = 1 << 6
	setupCoopTaskrun  = 1 << 8  // 5.19
	setupSingleIssuer = 1 << 12 // 6.0
	setupDeferTaskrun = 1 << 13 // 6.1

	featSingleMmap   = 1 << 0 // 5.4
	featNoDrop       = 1 << 1 // 5.5
	featSubmitStable = 1 << 2 // 5.5
	featExtArg       = 1 << 8 // 5.11

	enterGetEvents = 1 << 0
	enterExtArg    = 1 << 3

	registerProbe  = 8
	registerEnable = 12
	registerClock  = 29 // 6.12

	sqOverflow = 1 << 1 // in the flags of the submission ring

	mapSQEs = 0x10000000

	fsyncDatasync = 1 << 0
)

// The operations that a ring here uses.
const (
	uringFsync      = 3
	uringPollAdd    = 6
	uringPollRemove = 7
	uringFallocate  = 17
	uringRead       = 22
	uringWrite      = 23
)

// sqe is an entry of the submission ring: 64 bytes, laid out by the kernel.
type sqe struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	off      uint64
	addr     uint64
	len      uint32
	opFlags  uint32
	userData uint64
	_        [3]uint64
}

// cqe is an entry of the completion ring: 16 bytes, laid out by the kernel.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

type ringOffsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type completionOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

type ringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     ringOffsets
	cq                                                                     completionOffsets
}

// waitArg is what io_uring_enter takes with enterExtArg.
type waitArg struct {
	sigmask   uint64
	sigmaskSz uint32
	minWait   uint32
	timeout   uint64 // address of a timespec, or 0
}

// uring is the kernel's io_uring: two rings in shared memory and three system calls.
// One goroutine uses it at a time, and always from the same OS thread when it was
// made with setupSingleIssuer.
type uring struct {
	fd       int
	flags    uint32
	memory   []byte // both rings
	sqMemory []byte // the submission entries

	sqHead, sqTail, sqFlags *uint32 // shared with the kernel
	sqMask                  uint32
	sqes                    []sqe
	tail                    uint32 // entries filled; *sqTail follows in enter

	cqHead, cqTail *uint32 // shared with the kernel
	cqMask         uint32
	cqes           []cqe

	arg     waitArg
	timeout unix.Timespec
}

// openURing makes a ring for entries submissions and completions finished ones, or
// returns why the kernel won't.
func openURing(entries, completions, flags uint32) (*uring, error) {
	p := ringParams{flags: flags | setupCQSize, cqEntries: completions}
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, errno
	}
	u := &uring{fd: int(fd), flags: flags}
	const needed = featSingleMmap | featNoDrop | featSubmitStable | featExtArg
	if p.features&needed != needed {
		u.close()
		return nil, syscall.ENOSYS
	}
	if err := u.mapRings(&p); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

func (u *uring) mapRings(p *ringParams) (err error) {
	size := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(cqe{})))
	const prot, kind = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if u.memory, err = unix.Mmap(u.fd, 0, size, prot, kind); err != nil {
		return err
	}
	size = int(p.sqEntries) * int(unsafe.Sizeof(sqe{}))
	if u.sqMemory, err = unix.Mmap(u.fd, mapSQEs, size, prot, kind); err != nil {
		return err
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.memory[offset])) }
	u.sqHead, u.sqTail, u.sqFlags = word(p.sq.head), word(p.sq.tail), word(p.sq.flags)
	u.sqMask = *word(p.sq.mask)
	u.sqes = unsafe.Slice((*sqe)(unsafe.Pointer(&u.sqMemory[0])), p.sqEntries)
	places := unsafe.Slice(word(p.sq.array), p.sqEntries)
	for i := range places {
		places[i] = uint32(i) // entry i is always in place i
	}
	u.cqHead, u.cqTail = word(p.cq.head), word(p.cq.tail)
	u.cqMask = *word(p.cq.mask)
	u.cqes = unsafe.Slice((*cqe)(unsafe.Pointer(&u.memory[p.cq.cqes])), p.cqEntries)
	return nil
}

// close gives the ring back. The kernel must not be at work on anything whose memory
// is about to go away: it goes on in the background.
func (u *uring) close() {
	if u.sqMemory != nil {
		_ = unix.Munmap(u.sqMemory)
	}
	if u.memory != nil {
		_ = unix.Munmap(u.memory)
	}
	_ = unix.Close(u.fd)
}

// unsent returns how many entries the kernel has not taken yet.
func (u *uring) unsent() uint32 { return u.tail - atomic.LoadUint32(u.sqHead) }

// next returns the entry to fill next, with what it held before, or nil when the
// kernel has yet to take a ring full of them.
func (u *uring) next() *sqe {
	if u.unsent() == uint32(len(u.sqes)) {
		return nil
	}
	e := &u.sqes[u.tail&u.sqMask]
	u.tail++
	return e
}

// enter sends what was filled in and, if wait is not 0, waits for a completion: at
// most for wait, or for ever when it is negative. A nil error does not mean that all
// was sent, or that anything completed.
func (u *uring) enter(wait time.Duration) error {
	atomic.StoreUint32(u.sqTail, u.tail)
	var minimum uintptr
	u.arg.timeout = 0
	if wait != 0 {
		minimum = 1
	}
	if wait > 0 {
		u.timeout = unix.NsecToTimespec(int64(wait))
		u.arg.timeout = uint64(uintptr(unsafe.Pointer(&u.timeout)))
	}
	_, _, errno := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), uintptr(u.unsent()), minimum,
		enterGetEvents|enterExtArg, uintptr(unsafe.Pointer(&u.arg)), unsafe.Sizeof(u.arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// completed returns how many completions are there to take.
func (u *uring) completed() uint32 { return atomic.LoadUint32(u.cqTail) - *u.cqHead }

// overflowed reports whether the kernel holds completions back because the ring was
// full; enter fetches them.
func (u *uring) overflowed() bool { return atomic.LoadUint32(u.sqFlags)&sqOverflow != 0 }

// take removes a completion; completed must not be 0.
func (u *uring) take() cqe {
	head := *u.cqHead
	c := u.cqes[head&u.cqMask]
	atomic.StoreUint32(u.cqHead, head+1)
	return c
}

func (u *uring) register(opcode uintptr, arg unsafe.Pointer, n uintptr) error {
	_, _, errno := syscall.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), opcode, uintptr(arg), n, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// supports returns which of the first 64 operations the kernel knows, as bits.
func (u *uring) supports() (known uint64, err error) {
	const count = 64
	var probe struct {
		lastOp, opsLen uint8
		_              [14]byte
		ops            [count]struct {
			op, _ uint8
			flags uint16
			_     uint32
		}
	}
	if err := u.register(registerProbe, unsafe.Pointer(&probe), count); err != nil {
		return 0, err
	}
	const supported = 1 << 0
	for i, op := range probe.ops[:min(int(probe.opsLen), count)] {
		if op.flags&supported != 0 {
			known |= 1 << i
		}
	}
	return known, nil
}
