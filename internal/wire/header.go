package wire

import (
	"encoding/binary"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// HeaderSize is the number of bytes in a header.
const HeaderSize = 32

// Header is what every frame begins with. A reader needs it to know how much follows;
// what it means is told by the message that Box.Decode returns.
type Header struct {
	sum     uint32
	meta    uint16 // bytes
	blocks  uint16
	status  uint8
	flags   uint16
	epoch   block.Epoch
	Kind    Kind
	Channel uint32 // which conversation of this connection; 0 is the connection itself
	ID      uint64 // which request; replies echo it
}

// Tag says which conversation, and which request of it, a message belongs to.
type Tag struct {
	Channel uint32 // 0 is the connection itself
	ID      uint64 // chosen by who asks, echoed by who answers
}

// HeadSize returns the number of bytes of header and meta together.
func (h Header) HeadSize() int { return HeaderSize + int(h.meta) }

// DataSize returns the number of bytes of data that follow the head: a multiple of
// block.Size, at most DataMax, and 0 unless the kind carries data.
func (h Header) DataSize() int { return int(h.blocks) * block.Size }

// Tag returns what the message belongs to.
func (h Header) Tag() Tag { return Tag{Channel: h.Channel, ID: h.ID} }

// ParseHeader reads a header from the first HeaderSize bytes of b, which must be there,
// and refuses one that no frame can have: fault.Unsupported for a kind that is not
// known, fault.Invalid for data that the kind does not carry or that is too long. The
// checksum can only be compared when the meta is there too: Box.Decode does.
func ParseHeader(b []byte) (Header, error) {
	const op = "wire.ParseHeader"
	_ = b[HeaderSize-1]
	h := Header{
		sum:     binary.LittleEndian.Uint32(b),
		meta:    binary.LittleEndian.Uint16(b[4:]),
		blocks:  binary.LittleEndian.Uint16(b[6:]),
		Kind:    Kind(b[8]),
		status:  b[9],
		flags:   binary.LittleEndian.Uint16(b[10:]),
		Channel: binary.LittleEndian.Uint32(b[12:]),
		ID:      binary.LittleEndian.Uint64(b[16:]),
		epoch:   block.Epoch(binary.LittleEndian.Uint64(b[24:])),
	}
	switch {
	case !h.Kind.known():
		return h, fault.Errorf(op, fault.Unsupported, "frame of kind %d, which version %d does not have", h.Kind, Highest)
	case h.blocks > 0 && !h.Kind.carriesData():
		return h, fault.Errorf(op, fault.Invalid, "%s with %d blocks of data", h.Kind, h.blocks)
	case h.blocks > DataBlocksMax:
		return h, fault.Errorf(op, fault.Invalid, "%s with %d blocks of data, at most %d", h.Kind, h.blocks, DataBlocksMax)
	}
	return h, nil
}

// put writes the header to the first HeaderSize bytes of head, and the checksum of it
// and all that follows.
func (h Header) put(head []byte) {
	_ = head[HeaderSize-1]
	binary.LittleEndian.PutUint16(head[4:], h.meta)
	binary.LittleEndian.PutUint16(head[6:], h.blocks)
	head[8] = byte(h.Kind)
	head[9] = h.status
	binary.LittleEndian.PutUint16(head[10:], h.flags)
	binary.LittleEndian.PutUint32(head[12:], h.Channel)
	binary.LittleEndian.PutUint64(head[16:], h.ID)
	binary.LittleEndian.PutUint64(head[24:], uint64(h.epoch))
	binary.LittleEndian.PutUint32(head, block.MetaSum(head[4:]))
}
