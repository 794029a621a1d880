package fuse

import (
	"math"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// The server has a root directory and one file in it, under whatever name it is looked
// up. Nothing about either changes but the file's size, so a successor knows them
// without having been told.
const (
	rootNode = 1
	fileNode = 2
)

// forever, in seconds, is how long the kernel may believe names and attributes. A file
// whose attributes it must ask for can't be looked at while nobody serves it.
const forever = 1 << 30

// requestsMax is how many requests that nobody waits for, which is what a loop device
// makes, the kernel has under way before it holds further ones back. Its default is
// 12.
const requestsMax = 512

// control answers the requests that are about the file and not its data.
func (s *server) control(l *slot) {
	m := l.message
	switch m.opcode() {
	case opInit:
		s.init(l)
	case opLookup:
		s.lookup(l)
	case opGetattr:
		out := s.zeroed(16 + attrSize)
		le.PutUint64(out[0:], forever)
		s.putAttr(out[16:], m.node())
		s.answer(l, 0, out)
	case opOpen:
		out := s.zeroed(16)
		le.PutUint32(out[8:], openDirectIO|openNoFlush|openParallelDirectWrites)
		s.answer(l, 0, out)
	case opStatfs:
		out := s.zeroed(80)
		le.PutUint64(out[0:], uint64(s.file.size/block.Size))
		le.PutUint32(out[40:], block.Size) // what a loop device takes for the unit of discards
		le.PutUint32(out[44:], attach.NameLengthMax)
		le.PutUint32(out[48:], block.Size)
		s.answer(l, 0, out)
	case opFlush, opRelease, opDestroy:
		s.answer(l, 0, nil)
	case opForget, opBatchForget, opInterrupt: // have no answer; we answer all in time anyway
		s.free(l)
	default:
		s.answer(l, syscall.ENOSYS, nil)
	}
}

// zeroed returns n bytes for an answer.
func (s *server) zeroed(n int) []byte {
	out := s.head[outHeaderSize : outHeaderSize+n]
	clear(out)
	return out
}

func (s *server) lookup(l *slot) {
	if l.message.node() != rootNode || !strings.HasPrefix(string(l.message.args()), filePrefix) {
		s.answer(l, syscall.ENOENT, nil)
		return
	}
	out := s.zeroed(40 + attrSize)
	le.PutUint64(out[0:], fileNode)
	le.PutUint64(out[16:], forever)
	le.PutUint64(out[24:], forever)
	s.putAttr(out[40:], fileNode)
	s.answer(l, 0, out)
}

func (s *server) putAttr(b []byte, node uint64) {
	mode := uint32(unix.S_IFDIR | 0o500)
	if node == fileNode {
		mode = unix.S_IFREG | 0o600
		le.PutUint64(b[8:], uint64(s.file.size))
		le.PutUint64(b[16:], uint64(s.file.size/512))
	}
	le.PutUint64(b[0:], node)
	le.PutUint32(b[60:], mode)
	le.PutUint32(b[64:], 1) // names
	le.PutUint32(b[80:], block.Size)
}

// init answers the first request of a connection. A connection that is taken over has
// had its INIT; what was agreed on then must not depend on who serves.
func (s *server) init(l *slot) {
	args := l.message.args()
	if len(args) < 16 {
		s.malformed(l, fault.Errorf("fuse.init", fault.Invalid, "init has %d bytes of arguments", len(args)))
		return
	}
	major, minor, offered := le.Uint32(args[0:]), le.Uint32(args[4:]), uint64(le.Uint32(args[12:]))
	if offered&initExt != 0 && len(args) >= 20 {
		offered |= uint64(le.Uint32(args[16:])) << 32
	}
	if major != protocolMajor {
		s.answer(l, syscall.EPROTO, nil)
		return
	}
	agreed := offered & (initAsyncRead | initBigWrites | initAsyncDIO | initMaxPages | initExt | initHasResend)
	s.hasResend = agreed&initHasResend != 0
	out := s.zeroed(64)
	le.PutUint32(out[0:], protocolMajor)
	le.PutUint32(out[4:], min(minor, protocolMinor))
	longest := s.slots.longest()
	le.PutUint32(out[8:], uint32(longest)) // read-ahead
	le.PutUint32(out[12:], uint32(agreed&math.MaxUint32))
	le.PutUint16(out[16:], requestsMax)
	le.PutUint16(out[18:], requestsMax) // when it calls itself congested
	le.PutUint32(out[20:], uint32(longest))
	le.PutUint32(out[24:], 1) // granularity of times
	le.PutUint16(out[28:], uint16(longest/4096))
	le.PutUint32(out[32:], uint32(agreed>>32))
	s.answer(l, 0, out)
	if s.onInit != nil {
		s.onInit()
	}
}
