package fuse

import (
	"encoding/binary"
	"syscall"
)

// The kernel's FUSE protocol, as far as a server of one file needs it
// (include/uapi/linux/fuse.h). All numbers are in the machine's byte order, which is
// little-endian wherever Holdfast is built for.

var le = binary.LittleEndian

// Operations.
const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opFlush       = 25
	opInit        = 26
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
	opFallocate   = 43
)

// Notifications, in the place of an error, from the server to the kernel.
const (
	notifyInvalInode = 2
	notifyResend     = 7
)

// Sizes of headers and arguments, in bytes.
const (
	inHeaderSize  = 40
	outHeaderSize = 16
	ioArgsSize    = 40 // of READ and WRITE; a WRITE's data follows
	attrSize      = 88
)

// resentBit in a request's unique number says that the kernel sent it before. The
// answer carries it too.
const resentBit = 1 << 63

// Flags of INIT.
const (
	initAsyncRead = 1 << 0
	initBigWrites = 1 << 5
	initAsyncDIO  = 1 << 15 // without it everything is four times slower
	initMaxPages  = 1 << 22
	initExt       = 1 << 30
	initHasResend = 1 << 39
)

// Flags of OPEN's answer.
const (
	openDirectIO             = 1 << 0 // nothing is cached
	openNoFlush              = 1 << 5
	openParallelDirectWrites = 1 << 6
)

// Modes of FALLOCATE, as of fallocate(2).
const (
	fallocateKeepSize  = 0x01
	fallocatePunchHole = 0x02
	fallocateZeroRange = 0x10
)

const (
	protocolMajor = 7
	protocolMinor = 45 // the newest that this server knows
)

// message is a request as it was read: header, arguments, data, or the beginning of it.
type message []byte

func (m message) length() int    { return int(le.Uint32(m[0:])) }
func (m message) opcode() uint32 { return le.Uint32(m[4:]) }
func (m message) unique() uint64 { return le.Uint64(m[8:]) }
func (m message) node() uint64   { return le.Uint64(m[16:]) }

// args are what comes after the header, of a message that is all there.
func (m message) args() []byte { return m[inHeaderSize:m.length()] }

// putHeader writes the header of an answer with n bytes of data.
func putHeader(b []byte, n int, errno syscall.Errno, unique uint64) {
	le.PutUint32(b[0:], uint32(outHeaderSize+n))
	le.PutUint32(b[4:], uint32(-int32(errno)))
	le.PutUint64(b[8:], unique)
}

// notification returns one with the arguments.
func notification(code uint32, args ...uint64) []byte {
	b := make([]byte, outHeaderSize+8*len(args))
	le.PutUint32(b[0:], uint32(len(b)))
	le.PutUint32(b[4:], code)
	for i, a := range args {
		le.PutUint64(b[outHeaderSize+8*i:], a)
	}
	return b
}
