package link

import (
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Frame is a frame that was received. It belongs to who handles it until Release.
type Frame struct {
	Tag     wire.Tag
	Message wire.Message // its own; its data is aligned to host.Align

	conn   *Conn
	buffer *Buffer
	box    wire.Box
	call   func() // calls the connection's handler with this frame
}

func newFrame() *Frame {
	f := &Frame{}
	f.call = func() { f.conn.handle(f) }
	return f
}

// Conn returns the connection that the frame came by: where the answer goes.
func (f *Frame) Conn() *Conn { return f.conn }

// Release gives the frame back, with its message and data. It is called once. A Frame is
// a Holder, so that received data can be sent on.
func (f *Frame) Release() {
	c := f.conn
	if c == nil {
		panic(fault.Bug("link: a frame was released twice"))
	}
	wire.SetData(f.Message, nil)
	f.box.Trim()
	c.options.Pool.putFrame(c, f)
}
