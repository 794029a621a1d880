package wire

import (
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Message is a pointer to one of the message types of this package. They are plain
// structs: who fills one owns it and what it points to, and may fill it again.
type Message interface {
	// Kind returns the message's kind.
	Kind() Kind
	// code carries every field of the message over, to or from the bytes in c.
	code(c coder) coder
}

// Append appends the head of the frame that carries m, header and meta, to dst. The
// frame is that and Data(m). It reads m, so several goroutines may send one message. It
// does not allocate when dst has room. The error is fault.Invalid when m can't be said:
// it breaks a limit, or contradicts itself; dst is returned as it was.
func Append(dst []byte, tag Tag, m Message) ([]byte, error) {
	start := len(dst)
	var room [HeaderSize]byte
	c := coder{
		head: Header{Kind: m.Kind(), Channel: tag.Channel, ID: tag.ID},
		buf:  append(dst, room[:]...),
	}
	c = m.code(c)
	meta := len(c.buf) - start - HeaderSize
	if meta > MetaMax {
		c.wrong("%d bytes of meta, at most %d", meta, MetaMax)
	}
	if c.what != nil {
		return dst, fault.Errorf("wire.Append", fault.Invalid, "%s: %w", m.Kind(), c.what)
	}
	c.head.meta = uint16(meta)
	c.head.put(c.buf[start:])
	return c.buf, nil
}

// Data returns the data that follows the head of the frame that carries m; nil for
// most messages.
func Data(m Message) []byte {
	if d := dataOf(m); d != nil {
		return *d
	}
	return nil
}

// SetData gives m, which Box.Decode returned, the data that followed its head. It must
// be as long as the header said, and is not copied.
func SetData(m Message, data []byte) {
	if d := dataOf(m); d != nil {
		*d = data
	}
}

func dataOf(m Message) *[]byte {
	switch m := m.(type) {
	case *Write:
		return &m.Data
	case *ReadDone:
		return &m.Data
	case *Fill:
		return &m.Data
	case *WriteBlocks:
		return &m.Data
	}
	return nil
}

// Decode reads the head of a frame, header and meta, all of it and nothing more, and
// returns the message, which lives in b until the next Decode; what the message points
// to is b's or the message's own, never head's. Its data must be set with SetData.
//
// A head whose checksum is wrong is fault.Corrupt; an unknown kind, flag or status is
// fault.Unsupported; anything else that Append would not have written is fault.Invalid.
// Whatever head holds, Decode allocates no more than some multiple of its length, and
// nothing at all when b has held a message of that kind and size before, texts apart.
func (b *Box) Decode(head []byte) (Message, error) {
	const op = "wire.Decode"
	if len(head) < HeaderSize {
		return nil, fault.Errorf(op, fault.Invalid, "%d bytes are no frame", len(head))
	}
	h, err := ParseHeader(head)
	if err != nil {
		return nil, err
	}
	if len(head) != h.HeadSize() {
		return nil, fault.Errorf(op, fault.Invalid, "%s: %d bytes of head, its header says %d", h.Kind, len(head), h.HeadSize())
	}
	if sum := block.MetaSum(head[4:]); sum != h.sum {
		return nil, fault.Errorf(op, fault.Corrupt, "%s: checksum %08x, its header says %08x", h.Kind, sum, h.sum)
	}
	m := b.message(h.Kind)
	c := m.code(coder{head: h, buf: head[HeaderSize:], decoding: true})
	if h.flags&^c.flags != 0 {
		return nil, fault.Errorf(op, fault.Unsupported, "%s: flags %#x are not known", h.Kind, h.flags&^c.flags)
	}
	c.end()
	if c.what != nil {
		return nil, fault.Errorf(op, c.kindOfWrong(), "%s: %w", h.Kind, c.what)
	}
	return m, nil
}
