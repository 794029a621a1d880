package link

import (
	"errors"
	"io"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Poster calls functions elsewhere, one after the other: a host.Loop.
type Poster interface {
	// Post has f called, or returns false when it never will be. It may wait.
	Post(f func()) bool
}

// Receive reads frames and calls handle with each, in order, until the connection is
// over; then it closes the connection and returns why it is over: nil when Finish was
// called and the other end took note. What handle does holds up the frames that follow.
// Pings are answered, and not shown.
//
// The error is fault.Corrupt or fault.Invalid or fault.Unsupported when the other end
// sent what no frame is; it is told so. What the other end refused this one for is an
// error of the kind that it gave. A connection that was cut is fault.Unavailable.
func (c *Conn) Receive(handle func(*Frame)) error {
	c.handle = handle
	return c.receive(handle)
}

// ReceiveOn is Receive that has handle called by p. When p takes no more, the connection
// is closed.
func (c *Conn) ReceiveOn(p Poster, handle func(*Frame)) error {
	c.handle = handle
	return c.receive(func(f *Frame) {
		if !p.Post(f.call) {
			f.Release()
			c.Close()
		}
	})
}

func (c *Conn) receive(deliver func(*Frame)) error {
	c.socket.beforeRead = c.Flush // what handlers queued until then
	err := c.frames(newReader(c.stream, c.transmitter.secure != nil), deliver)
	if wrong := (protocolError{}); errors.As(err, &wrong) {
		c.refuse(wrong.error)
	}
	c.mu.Lock()
	finished := c.finished && err == io.EOF
	c.mu.Unlock()
	if finished {
		c.awaitTransmit()
	}
	c.fail("link.Receive", err)
	if finished {
		return nil
	}
	return c.Err()
}

// awaitTransmit waits until the last words are said, or until nobody waits for them any
// more.
func (c *Conn) awaitTransmit() {
	select {
	case <-c.out.ended:
	case <-time.After(c.options.LingerMax):
	}
}

// protocolError is what the other end did wrong.
type protocolError struct{ error }

// Unwrap returns the error without the remark.
func (e protocolError) Unwrap() error { return e.error }

// refusedError is what the other end says that this one did wrong.
type refusedError struct{ error }

// Unwrap returns the error without the remark.
func (e refusedError) Unwrap() error { return e.error }

// errOver says that c.cause has the reason.
var errOver = fault.Errorf("link.Receive", fault.Canceled, "the connection is over")

// frames delivers one frame after the other and returns why there is no other.
func (c *Conn) frames(r *reader, deliver func(*Frame)) error {
	for {
		f, err := c.frame(r)
		if err != nil {
			return err
		}
		switch m := f.Message.(type) {
		case *wire.Ping:
			_ = c.TrySend(f.Tag, &pong, nil) // if the queue is full, the other end hears enough
			f.Release()
		case *wire.Pong:
			f.Release()
		case *wire.Refuse:
			err := refusedError{m.Err("link.Receive")}
			f.Release()
			return err
		case *wire.Hello:
			f.Release()
			return protocolError{fault.Errorf("link.Receive", fault.Invalid, "a second Hello")}
		default:
			deliver(f)
		}
	}
}

var pong wire.Pong

// frame reads a frame.
func (c *Conn) frame(r *reader) (*Frame, error) {
	if err := r.need(wire.HeaderSize); err != nil {
		return nil, err
	}
	h, err := wire.ParseHeader(r.next(wire.HeaderSize))
	if err != nil {
		return nil, protocolError{err}
	}
	if err := r.need(h.HeadSize()); err != nil {
		return nil, err
	}
	f := c.options.Pool.frame(c, h.DataSize())
	if f == nil {
		return nil, errOver
	}
	if f.Message, err = f.box.Decode(r.next(h.HeadSize())); err != nil {
		f.Release()
		return nil, protocolError{err}
	}
	r.skip(h.HeadSize())
	f.Tag = h.Tag()
	if f.buffer != nil {
		if err := r.full(f.buffer.Data); err != nil {
			f.Release()
			return nil, err
		}
		wire.SetData(f.Message, f.buffer.Data)
	}
	r.expect(h.DataSize())
	return f, nil
}

// refuse tells the other end what it did wrong, after what was queued, and waits until
// it has read that: a socket that is closed with something unread takes its last words
// back.
func (c *Conn) refuse(err error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = c.because("link.Receive", fault.KindOf(err), err)
	}
	cause := c.cause
	c.mu.Unlock()
	c.lastWords(cause, refusal(err))
	_, _ = io.Copy(io.Discard, c.stream) // until it hangs up, or for LingerMax
	c.awaitTransmit()
}

// refusal returns the message that says err.
func refusal(err error) *wire.Refuse {
	return &wire.Refuse{Status: fault.KindOf(err), Text: wire.Clip(err.Error())}
}
