// Package uring is as much of io_uring as commands to a driver need (IORING_OP_URING_CMD):
// a ring in shared memory, used by one goroutine that is locked to its thread. Reads and
// writes of files go through package host's ring, which has no such commands.
package uring

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// The part of linux/io_uring.h that is used.
const (
	setupSQE128    = 1 << 10
	featSingleMmap = 1 << 0
	enterGetEvents = 1 << 0
	mapSQEs        = 0x10000000
	opUringCmd     = 46
)

// Command is an entry of the submission ring, laid out by the kernel; the larger rings
// have 64 bytes more for Data.
type Command struct {
	opcode   uint8
	flags    uint8
	ioprio   uint16
	fd       int32
	op       uint32 // of the driver
	_        uint32
	addr     uint64
	len      uint32
	opFlags  uint32
	userData uint64
	_        [8]byte
	Data     [16]byte // of a ring of small entries; Large gives all 80 of a large one
}

// Large returns the driver's part of an entry of a ring with large entries.
func (c *Command) Large() *[80]byte { return (*[80]byte)(unsafe.Pointer(&c.Data)) }

// completion is an entry of the completion ring.
type completion struct {
	userData uint64
	res      int32
	flags    uint32
}

type offsets struct {
	head, tail, mask, entries, flags, dropped, array, _ uint32
	_                                                   uint64
}

type completionOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags, _ uint32
	_                                                   uint64
}

type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32
	sq                                                                     offsets
	cq                                                                     completionOffsets
}

// Ring is a ring.
type Ring struct {
	fd             int
	memory         []byte // both rings
	entries        []byte // the submission entries
	size           int    // of one of them
	sqHead, sqTail *uint32
	sqMask         uint32
	tail           uint32
	cqHead, cqTail *uint32
	cqMask         uint32
	cqes           []completion
}

// Open makes a ring for so many commands at once; large ones have 80 bytes for the driver.
func Open(entries int, large bool) (*Ring, error) {
	p := params{}
	r := &Ring{size: 64}
	if large {
		p.flags, r.size = setupSQE128, 128
	}
	fd, _, errno := syscall.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return nil, fault.Errorf("uring.Open", fault.Unsupported, "the kernel makes no io_uring: %w", errno)
	}
	r.fd = int(fd)
	if p.features&featSingleMmap == 0 {
		r.Close()
		return nil, fault.Errorf("uring.Open", fault.Unsupported, "the kernel's io_uring is too old")
	}
	if err := r.mapRings(&p); err != nil {
		r.Close()
		return nil, fault.Errorf("uring.Open", fault.KindOf(err), "map the rings: %w", err)
	}
	return r, nil
}

func (r *Ring) mapRings(p *params) (err error) {
	n := max(int(p.sq.array+p.sqEntries*4), int(p.cq.cqes)+int(p.cqEntries)*int(unsafe.Sizeof(completion{})))
	const prot, kind = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.memory, err = unix.Mmap(r.fd, 0, n, prot, kind); err != nil {
		return err
	}
	if r.entries, err = unix.Mmap(r.fd, mapSQEs, int(p.sqEntries)*r.size, prot, kind); err != nil {
		return err
	}
	word := func(offset uint32) *uint32 { return (*uint32)(unsafe.Pointer(&r.memory[offset])) }
	r.sqHead, r.sqTail, r.sqMask = word(p.sq.head), word(p.sq.tail), *word(p.sq.mask)
	for i, places := 0, unsafe.Slice(word(p.sq.array), p.sqEntries); i < len(places); i++ {
		places[i] = uint32(i) // entry i is always in place i
	}
	r.cqHead, r.cqTail, r.cqMask = word(p.cq.head), word(p.cq.tail), *word(p.cq.mask)
	r.cqes = unsafe.Slice((*completion)(unsafe.Pointer(&r.memory[p.cq.cqes])), p.cqEntries)
	return nil
}

// FD returns the ring's descriptor, which is readable when something is complete.
func (r *Ring) FD() int { return r.fd }

// Close gives the ring back. What the driver has of it, it gives back later.
func (r *Ring) Close() {
	if r.entries != nil {
		_ = unix.Munmap(r.entries)
	}
	if r.memory != nil {
		_ = unix.Munmap(r.memory)
	}
	_ = unix.Close(r.fd)
}

// Add returns the next entry, for command op of the driver behind fd. There must be room:
// Enter makes it.
func (r *Ring) Add(fd int, op uint32, userData uint64) *Command {
	c := (*Command)(unsafe.Pointer(&r.entries[int(r.tail&r.sqMask)*r.size]))
	clear(unsafe.Slice((*byte)(unsafe.Pointer(c)), r.size))
	c.opcode, c.fd, c.op, c.userData = opUringCmd, int32(fd), op, userData
	r.tail++
	return c
}

// Enter sends what was added, and waits for a completion if wait.
func (r *Ring) Enter(wait bool) error {
	atomic.StoreUint32(r.sqTail, r.tail)
	minimum, flags := uintptr(0), uintptr(0)
	if wait {
		minimum, flags = 1, enterGetEvents
	}
	for {
		unsent := r.tail - atomic.LoadUint32(r.sqHead)
		if unsent == 0 && !wait {
			return nil
		}
		_, _, errno := syscall.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(unsent), minimum, flags, 0, 0)
		switch {
		case errno == syscall.EINTR:
		case errno != 0:
			return errno
		case wait && atomic.LoadUint32(r.cqTail) == *r.cqHead: // a signal came
		case r.tail == atomic.LoadUint32(r.sqHead):
			return nil
		}
	}
}

// Take returns the next completion, if there is one.
func (r *Ring) Take() (userData uint64, res int32, ok bool) {
	head := *r.cqHead
	if head == atomic.LoadUint32(r.cqTail) {
		return 0, 0, false
	}
	c := r.cqes[head&r.cqMask]
	atomic.StoreUint32(r.cqHead, head+1)
	return c.userData, c.res, true
}
