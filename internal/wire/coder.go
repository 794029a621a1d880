package wire

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// coder carries the fields of a message to its bytes or, decoding, from them. A message
// names its fields once, in the order of the format, for both directions; each method
// also checks the field, in both directions, so what can be written can be read.
//
// It is passed by value, for a pointer given to an interface's method would escape.
type coder struct {
	head     Header
	buf      []byte // encoding: the head so far; decoding: the meta that is not yet read
	decoding bool
	flags    uint16 // that the message has
	hasEpoch bool
	hasState bool  // a status
	unknown  bool  // what is wrong is a number that a newer build may know
	what     error // is wrong, the first thing
}

func (c *coder) wrong(format string, args ...any) {
	if c.what == nil {
		c.what = fmt.Errorf(format, args...)
	}
}

func (c *coder) kindOfWrong() fault.Kind {
	if c.unknown {
		return fault.Unsupported
	}
	return fault.Invalid
}

// end checks that all of the frame was used.
func (c *coder) end() {
	switch {
	case len(c.buf) > 0:
		c.wrong("%d bytes too many", len(c.buf))
	case c.head.epoch != 0 && !c.hasEpoch:
		c.wrong("an epoch, %d", c.head.epoch)
	case c.head.status != 0 && !c.hasState:
		c.wrong("a status, %d", c.head.status)
	}
}

// nothing is what a field reads as that is not there. No field is longer.
var nothing [16]byte

// take returns the next n bytes of meta. When there are fewer, that is wrong, and the
// field reads as zeros.
func (c *coder) take(n int) []byte {
	if len(c.buf) < n {
		c.wrong("%d bytes too few", n-len(c.buf))
		c.buf = nil
		return nothing[:n]
	}
	b := c.buf[:n]
	c.buf = c.buf[n:]
	return b
}

// The fields of the header.

func (c *coder) epoch(v *block.Epoch) {
	c.hasEpoch = true
	if c.decoding {
		*v = c.head.epoch
	} else {
		c.head.epoch = *v
	}
}

func (c *coder) status(v *fault.Kind) {
	c.hasState = true
	if !c.decoding {
		var ok bool
		if c.head.status, ok = statuses[*v]; !ok {
			c.wrong("kind of fault %d has no number", *v)
		}
		return
	}
	var ok bool
	if *v, ok = faults[c.head.status]; !ok && c.what == nil {
		c.wrong("status %d is not known", c.head.status)
		c.unknown = true
	}
}

func (c *coder) flag(bit uint16, v *bool) {
	c.flags |= bit
	if c.decoding {
		*v = c.head.flags&bit != 0
	} else if *v {
		c.head.flags |= bit
	}
}

// Numbers.

func (c *coder) u8(v *uint8) {
	if c.decoding {
		*v = c.take(1)[0]
	} else {
		c.buf = append(c.buf, *v)
	}
}

func (c *coder) u16(v *uint16) {
	if c.decoding {
		*v = binary.LittleEndian.Uint16(c.take(2))
	} else {
		c.buf = binary.LittleEndian.AppendUint16(c.buf, *v)
	}
}

func (c *coder) u32(v *uint32) {
	if c.decoding {
		*v = binary.LittleEndian.Uint32(c.take(4))
	} else {
		c.buf = binary.LittleEndian.AppendUint32(c.buf, *v)
	}
}

func (c *coder) u64(v *uint64) {
	if c.decoding {
		*v = binary.LittleEndian.Uint64(c.take(8))
	} else {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, *v)
	}
}

func (c *coder) id(v *[16]byte) {
	if c.decoding {
		copy(v[:], c.take(16))
	} else {
		c.buf = append(c.buf, v[:]...)
	}
}

// constant is a number that is always the same.
func (c *coder) constant(want uint64) {
	v := want
	if c.u64(&v); v != want {
		c.wrong("%#x where %#x is expected", v, want)
	}
}

func (c *coder) duration(v *time.Duration) {
	u := uint64(*v)
	if c.u64(&u); u > uint64(DurationMax) {
		c.wrong("a duration of %d ns, at most %v", u, DurationMax)
	}
	if c.decoding {
		*v = time.Duration(u)
	}
}

func (c *coder) size(v *int64) {
	u := uint64(*v)
	if c.u64(&u); u > block.VolumeSizeMax || !block.ValidSize(int64(u)) {
		c.wrong("%d is not the size of a volume", u)
	}
	if c.decoding {
		*v = int64(u)
	}
}
