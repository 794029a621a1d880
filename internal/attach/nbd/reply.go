package nbd

import (
	"net"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// reply answers s, or a part of it.
func (c *conn) reply(s *slot) {
	switch cmd := s.header.cmd; {
	case cmd == cmdRead && c.structured:
		c.replyChunk(s)
	case cmd == cmdRead:
		c.replySimply(s)
	case cmd == cmdBlockStatus && s.errno == 0:
		c.chunk(s, chunkDone, chunkBlockStatus, s.small[:s.status])
	case cmd == cmdBlockStatus:
		c.errorChunk(s)
	default:
		c.simple(s, nil)
	}
}

// replyChunk answers a read, or a part of one, with a chunk.
func (c *conn) replyChunk(s *slot) {
	if s.errno != 0 {
		c.errorChunk(s)
		return
	}
	flags := uint16(0)
	if s.left == 0 {
		flags = chunkDone
	}
	c.chunk(s, flags, chunkOffsetData, s.request.Buf)
}

// replySimply answers a read for clients that know no chunks: all of the data follows
// one header. Of a long read nothing else may be written before it is all there, and
// an error in the middle can't be said.
func (c *conn) replySimply(s *slot) {
	switch {
	case s.fresh && s.errno == 0:
		c.simple(s, s.request.Buf)
	case s.fresh:
		c.simple(s, nil)
	case s.errno != 0:
		c.check(fault.Errorf("nbd.reply", fault.Media, "a read failed in the middle"))
	default:
		c.check(c.out.put(nil, s.request.Buf))
	}
	s.fresh = false
	c.only = nil
	if s.left > 0 && s.errno == 0 && !c.broken {
		c.only = s
	}
}

func (c *conn) simple(s *slot, data []byte) {
	b := c.out.head[:simpleBytes]
	be.PutUint32(b[0:], magicSimple)
	be.PutUint32(b[4:], s.errno)
	be.PutUint64(b[8:], s.header.cookie)
	c.check(c.out.put(b, data))
}

// chunk writes a chunk with data; that of a read has the data's offset before it.
func (c *conn) chunk(s *slot, flags, kind uint16, data []byte) {
	b := c.out.head[:structuredBytes]
	if kind == chunkOffsetData {
		b = c.out.head[:structuredBytes+8]
		be.PutUint64(b[20:], uint64(s.request.Offset))
	}
	be.PutUint32(b[0:], magicStructured)
	be.PutUint16(b[4:], flags)
	be.PutUint16(b[6:], kind)
	be.PutUint64(b[8:], s.header.cookie)
	be.PutUint32(b[16:], uint32(len(b)-structuredBytes+len(data)))
	c.check(c.out.put(b, data))
}

func (c *conn) errorChunk(s *slot) {
	data := s.small[:6]
	be.PutUint32(data[0:], s.errno)
	be.PutUint16(data[4:], 0) // no message
	c.chunk(s, chunkDone, chunkError, data)
}

// copyMax is how many bytes are cheaper copied than written by themselves.
const copyMax = 16 << 10

// outlet gathers what is small, and writes what is large from where it is.
type outlet struct {
	socket  net.Conn
	timeout time.Duration // for a client to take something
	buf     []byte
	head    [structuredBytes + 8]byte
	two     [2][]byte
	list    net.Buffers
}

func (o *outlet) pending() bool { return len(o.buf) > 0 }

// put writes head and data, now or with the next flush, and keeps neither.
func (o *outlet) put(head, data []byte) error {
	if len(o.buf)+len(head)+len(data) > cap(o.buf) {
		if err := o.flush(); err != nil {
			return err
		}
	}
	o.buf = append(o.buf, head...)
	if len(data) < copyMax {
		o.buf = append(o.buf, data...)
		return nil
	}
	o.two = [2][]byte{o.buf, data}
	o.list = o.two[:]
	if len(o.buf) == 0 {
		o.list = o.two[1:]
	}
	o.buf = o.buf[:0]
	o.limit()
	_, err := o.list.WriteTo(o.socket)
	o.two = [2][]byte{}
	return err
}

func (o *outlet) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	o.limit()
	_, err := o.socket.Write(o.buf)
	o.buf = o.buf[:0]
	return err
}

// limit makes a write fail that the client does not take.
func (o *outlet) limit() { _ = o.socket.SetWriteDeadline(time.Now().Add(o.timeout)) }
