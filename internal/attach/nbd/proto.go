package nbd

import (
	"encoding/binary"
	"syscall"
)

// The NBD protocol (https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md),
// as far as this server speaks it. All numbers are big-endian.

var be = binary.BigEndian

// The greeting, fixed newstyle.
const (
	magicGreeting = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT", of the server's greeting too
	magicReply    = 0x3e889045565a9    // of the answer to an option

	flagFixedNewstyle = 1 << 0 // flags of the server and, the same, of the client
	flagNoZeroes      = 1 << 1 // no padding after EXPORT_NAME
)

// Options of the client.
const (
	optExportName      = 1
	optAbort           = 2
	optList            = 3
	optStartTLS        = 5
	optInfo            = 6
	optGo              = 7
	optStructuredReply = 8
	optListMetaContext = 9
	optSetMetaContext  = 10
)

// Answers to options.
const (
	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repMetaContext = 4
	repErr         = 1 << 31
	repErrUnsup    = repErr + 1
	repErrInvalid  = repErr + 3
	repErrTLSReqd  = repErr + 5
	repErrUnknown  = repErr + 6
	repErrTooBig   = repErr + 9
)

// Information about an export.
const (
	infoExport    = 0
	infoName      = 1
	infoBlockSize = 3
)

// Flags of an export.
const (
	hasFlags       = 1 << 0
	isReadOnly     = 1 << 1
	canFlush       = 1 << 2
	canFUA         = 1 << 3
	canTrim        = 1 << 5
	canWriteZeroes = 1 << 6
	canDF          = 1 << 7
	canMultiConn   = 1 << 8
	canFastZero    = 1 << 11
)

// The one kind of block status.
const (
	contextBase    = "base:"
	contextAlloc   = "base:allocation"
	contextAllocID = 1

	extentHole = 1 << 0
	extentZero = 1 << 1
)

// Limits.
const (
	nameBytesMax    = 4096     // of an export's name
	optionBytesMax  = 16 << 10 // of an option's data
	optionsMax      = 256      // of one handshake
	queriesMax      = 64       // of one option
	extentsMax      = 1024     // of one answer
	payloadBytesMax = 32 << 20 // what clients may send, and ask for, that were told no limit
)

// Requests.
const (
	magicRequest    = 0x25609513
	magicSimple     = 0x67446698
	magicStructured = 0x668e33ef

	requestBytes    = 28
	simpleBytes     = 16
	structuredBytes = 20

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisconnect  = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6
	cmdBlockStatus = 7

	cmdFUA      = 1 << 0
	cmdNoHole   = 1 << 1
	cmdDF       = 1 << 2
	cmdReqOne   = 1 << 3
	cmdFastZero = 1 << 4
)

// Structured answers.
const (
	chunkDone        = 1 << 0 // flag: the last of its request
	chunkNone        = 0
	chunkOffsetData  = 1
	chunkBlockStatus = 5
	chunkError       = 1<<15 + 1
)

// request is the header of a request.
type request struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	offset uint64
	length uint32
}

// parseRequest reads a header of requestBytes; false means that it is none.
func parseRequest(b []byte) (r request, ok bool) {
	return request{be.Uint16(b[4:]), be.Uint16(b[6:]), be.Uint64(b[8:]), be.Uint64(b[16:]), be.Uint32(b[24:])},
		be.Uint32(b) == magicRequest
}

// wireErrno returns the protocol's number for an errno: it has few, which are Linux's.
func wireErrno(e syscall.Errno) uint32 {
	switch e {
	case 0, syscall.EPERM, syscall.EIO, syscall.ENOMEM, syscall.EINVAL, syscall.ENOSPC, syscall.EOVERFLOW, syscall.ENOTSUP, syscall.ESHUTDOWN:
		return uint32(e)
	}
	return uint32(syscall.EIO)
}
