package attach

import (
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Op says what a Request does.
type Op uint8

// The operations.
const (
	// Read fills Buf from Offset.
	Read Op = iota + 1
	// Write stores Buf at Offset. It is durable after a Flush, or at once with FUA.
	Write
	// Zero makes Length bytes at Offset read as zeros: discard and write zeroes. It may
	// be as long as the volume.
	Zero
	// Flush makes durable every write and zero that was done before it was submitted.
	Flush
	ops
)

var opNames = [ops]string{"none", "read", "write", "zero", "flush"}

// String names the operation in one lower-case word.
func (o Op) String() string {
	if o < ops {
		return opNames[o]
	}
	return "unknown"
}

// Flags say how a Request does it.
type Flags uint8

const (
	// FUA, with Write and Zero, asks that it be durable when it is done.
	FUA Flags = 1 << iota
	// Unmap, with Zero, says that the space is not wanted any more: a discard. Without
	// it, space should be kept if it can be.
	Unmap
)

// Request is one request. Its front end fills it and owns it, Buf included, except
// between Submit and Done.
type Request struct {
	Op    Op
	Flags Flags
	// Slot tells requests in flight apart: no two of one front end have the same, and
	// it is below Options.Depth, so a backend can keep what it needs in an array.
	Slot int
	// Offset and Length are bytes within the volume, multiples of Options.BlockSize. A
	// Read or Write has at least one block and at most IOBytesMax. Both are 0 for Flush.
	Offset, Length int64
	// Buf has Length bytes for Read and Write, and begins at a multiple of host.Align;
	// otherwise it is nil.
	Buf []byte

	// Err is the backend's answer, set before Done is called; nil is success. See
	// [Errno] for what its kinds become.
	Err error
	// Done ends the request. The backend calls it once.
	Done func(*Request)
}

// End sets Err and calls Done.
func (r *Request) End(err error) {
	r.Err = err
	r.Done(r)
}

// Check returns what is wrong with a request to a volume of size bytes and a block size
// of blockSize: nil, or fault.Invalid. Front ends use it on what clients ask for.
func (r *Request) Check(size int64, blockSize int) error {
	wrong := func(what string) error {
		return fault.Errorf("attach."+r.Op.String(), fault.Invalid, "offset %d, length %d: %s", r.Offset, r.Length, what)
	}
	switch r.Op {
	case Read, Write, Zero:
	case Flush:
		if r.Offset != 0 || r.Length != 0 || r.Buf != nil || r.Flags != 0 {
			return wrong("a flush has no range, data or flags")
		}
		return nil
	default:
		return wrong("no such operation")
	}
	switch mask := int64(blockSize) - 1; {
	case r.Offset < 0 || r.Length <= 0:
		return wrong("the range is empty or negative")
	case r.Offset > size || r.Length > size-r.Offset:
		return wrong("the range is beyond the volume's end")
	case r.Offset&mask != 0 || r.Length&mask != 0:
		return wrong("the range is not made of whole blocks")
	case r.Op != Zero && r.Length > IOBytesMax:
		return wrong("longer than a read or write may be")
	case r.Op == Read && r.Flags != 0 || r.Op == Write && r.Flags&^FUA != 0 || r.Flags&^(FUA|Unmap) != 0:
		return wrong("the flags do not fit the operation")
	}
	return nil
}
