// Package nbd shows volumes to user-space clients (QEMU, nbdcopy, fio, libnbd) over the
// NBD protocol, on a Unix socket, or on TCP under TLS.
//
// A [Server] listens, and exports volumes by their names; each is a [Frontend]. Spoken
// is fixed newstyle with structured replies, block status (base:allocation, so that
// sparse parts are seen, where the backend is an [attach.Mapper]), flush, FUA, trim,
// write-zeroes with and without holes, and any number of connections to one export: a
// flush on one covers what was answered on all.
//
// Unlike a device of the kernel's, an export ends with its process: clients see their
// connections break, and those that can connect again do. So there is nothing to take
// over, and Options.Fence, Wait and LinkDir mean nothing here.
//
// What clients send or fail to send costs no more memory than Options.MemoryBytesMax an
// export and some 150 KiB a connection, of which there are ServerOptions.Connections at
// most. A client that does not take its answers is disconnected.
package nbd

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// What clients are told of sizes, in bytes. They may send more, as much as any server
// takes from clients that do not ask; that is done part by part.
const (
	preferredBytes = block.Size
	longestBytes   = attach.IOBytesMax
)

// Frontend is an attach.Frontend: one export.
type Frontend struct {
	o      attach.Options
	server *Server
	slots  *slots
	size   atomic.Int64
	meter  attach.Meter
	epoch  time.Time // what slot.began counts from
	done   func(*attach.Request)

	control chan struct{} // holds one token while Start, Resize, Stop or HandOver works
	ended   chan struct{}

	mu    sync.Mutex
	state state
	conns map[*conn]bool
	empty chan struct{} // closed when there is no connection any more; nil while nobody waits
	cause error         // of the end
	err   error
}

// state says whether there is an export.
type state uint8

const (
	fresh   state = iota
	open          // clients may come
	shut          // for now no clients may come
	aborted       // no more clients, and it ends
	ended
)

var _ attach.Frontend = (*Frontend)(nil)

// New returns a front end that is not started, of an export that s serves. The error is
// fault.Invalid.
func New(o attach.Options, s *Server) (*Frontend, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, fault.Errorf("nbd.New", fault.Invalid, "a server is needed")
	}
	f := &Frontend{o: o, server: s, epoch: time.Now(), control: make(chan struct{}, 1), ended: make(chan struct{}), conns: map[*conn]bool{}}
	f.done = f.finished
	f.size.Store(o.Size)
	return f, nil
}

// Start is attach.Frontend.Start. It is fault.Exists when the server has an export of
// that name.
func (f *Frontend) Start(ctx context.Context) error {
	return f.controlled(ctx, "nbd.Start", func() (err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.state != fresh {
			return fault.Errorf("nbd.Start", fault.Precondition, "a front end is started once")
		}
		if f.slots, err = newSlots(f.o.Depth, f.o.LargeDepth); err == nil {
			err = f.server.add(f)
		}
		if err != nil {
			f.finish(err)
			return err
		}
		f.state = open
		return nil
	})
}

// controlled calls work while no other control operation is under way.
func (f *Frontend) controlled(ctx context.Context, op string, work func() error) error {
	select {
	case f.control <- struct{}{}:
		defer func() { <-f.control }()
	case <-ctx.Done():
		return attach.GaveUp(ctx, op)
	}
	if err := work(); err != nil {
		return fault.E(op, fault.KindOf(err), f.o.Volume, err)
	}
	return nil
}

// running is controlled for what needs an export that is there.
func (f *Frontend) running(ctx context.Context, op string, work func() error) error {
	return f.controlled(ctx, op, func() error {
		f.mu.Lock()
		there := f.state == open
		f.mu.Unlock()
		if !there {
			return fault.Errorf(op, fault.Precondition, "the export is not there")
		}
		return work()
	})
}

// Device is attach.Frontend.Device: there is none.
func (f *Frontend) Device() attach.Device { return attach.Device{} }

// Resize is attach.Frontend.Resize. Clients may use the new size at once, but learn of
// it when they connect.
func (f *Frontend) Resize(ctx context.Context, size int64) error {
	return f.running(ctx, "nbd.Resize", func() error {
		if err := f.o.CheckResize(size); err != nil {
			return err
		}
		f.o.Size = size
		f.size.Store(size)
		return nil
	})
}

// leaveWait is how long Stop waits for clients that may be leaving.
const leaveWait = 100 * time.Millisecond

// Stop is attach.Frontend.Stop. It is fault.Busy while clients are connected.
func (f *Frontend) Stop(ctx context.Context) error {
	return f.running(ctx, "nbd.Stop", func() error {
		select {
		case <-f.await():
		case <-time.After(leaveWait):
		}
		f.mu.Lock()
		n := len(f.conns)
		if n == 0 && f.state == open {
			f.state = shut
		}
		f.mu.Unlock()
		if n > 0 {
			return fault.WithCure(fault.Errorf("nbd.Stop", fault.Busy, "clients have %d connections", n), "end them")
		}
		err := f.flush()
		f.end(err)
		return err
	})
}

// await returns what is closed when there is no client.
func (f *Frontend) await() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.empty = make(chan struct{})
	empty := f.empty
	if len(f.conns) == 0 {
		close(f.empty)
		f.empty = nil
	}
	return empty
}

// flush flushes the backend.
func (f *Frontend) flush() error {
	done := make(chan error, 1)
	r := attach.Request{Op: attach.Flush, Done: func(r *attach.Request) { done <- r.Err }}
	if !f.o.Loop.Post(func() { f.o.Backend.Submit(&r) }) {
		return fault.Errorf("nbd.flush", fault.Canceled, "the loop has ended")
	}
	return <-done
}

// HandOver is attach.Frontend.HandOver: what was asked for is answered, then the
// connections end. When ctx ends first, clients can connect again.
func (f *Frontend) HandOver(ctx context.Context) error {
	return f.running(ctx, "nbd.HandOver", func() error {
		f.shut()
		select {
		case <-f.await():
		case <-ctx.Done():
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.state == shut {
				f.state = open
			}
			return attach.GaveUp(ctx, "nbd.HandOver")
		}
		f.end(nil)
		return nil
	})
}

// shut lets no more clients come, and has those that are there leave.
func (f *Frontend) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == open {
		f.state = shut
	}
	for c := range f.conns {
		c.hangUp(false)
	}
}

// Abort is attach.Frontend.Abort.
func (f *Frontend) Abort() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abort(nil)
	return nil
}

// abort ends the export because of cause.
func (f *Frontend) abort(cause error) {
	if f.state == fresh || f.state == ended || f.state == aborted {
		return
	}
	f.state, f.cause = aborted, cause
	f.server.remove(f)
	f.slots.close()
	for c := range f.conns {
		c.hangUp(true)
	}
	if len(f.conns) == 0 {
		f.finish(cause)
	}
}

// loopEnded ends an export whose loop has ended.
func (f *Frontend) loopEnded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abort(fault.Errorf("nbd", fault.Canceled, "the loop has ended"))
}

// join adds a client.
func (f *Frontend) join(c *conn) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != open {
		return fault.Errorf("nbd.join", fault.Unavailable, "%q is being taken away", f.o.Name)
	}
	f.conns[c] = true
	c.f = f
	return nil
}

func (f *Frontend) isOpen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state == open
}

// leave takes a client off, which has nothing in flight.
func (f *Frontend) leave(c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.conns, c)
	if len(f.conns) > 0 {
		return
	}
	if f.empty != nil {
		close(f.empty)
		f.empty = nil
	}
	if f.state == aborted {
		f.finish(f.cause)
	}
}

// end ends an export that has no client.
func (f *Frontend) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == shut {
		f.server.remove(f)
		f.finish(err)
	}
}

// finish ends the front end; f.mu is held.
func (f *Frontend) finish(err error) {
	if f.slots != nil {
		f.slots.close()
		f.slots.unmap()
	}
	f.state, f.err = ended, err
	close(f.ended)
}

// Stats is attach.Frontend.Stats.
func (f *Frontend) Stats() attach.Stats { return f.meter.Stats() }

// Ended is attach.Frontend.Ended.
func (f *Frontend) Ended() <-chan struct{} { return f.ended }

// Err is attach.Frontend.Err.
func (f *Frontend) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Clients returns how many connections there are.
func (f *Frontend) Clients() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// flags returns what clients are told that the export can do.
func (f *Frontend) flags(structured bool) uint16 {
	flags := uint16(hasFlags | canFlush | canFUA | canMultiConn)
	switch {
	case f.o.ReadOnly:
		flags |= isReadOnly
	case f.o.NoDiscard:
		flags |= canWriteZeroes | canFastZero
	default:
		flags |= canWriteZeroes | canFastZero | canTrim
	}
	if structured {
		flags |= canDF
	}
	return flags
}

// errClosed is why a server takes nothing more.
var errClosed = errors.New("the server was closed")

// Attend serves a client that needs no handshake, such as the kernel's driver at the
// other end of a pair of sockets, until it leaves and nothing of it is in flight any
// more. It closes the connection.
func (f *Frontend) Attend(socket net.Conn) error {
	defer socket.Close()
	c := newConn(socket)
	if err := f.join(c); err != nil {
		return err
	}
	defer f.leave(c)
	return c.serve(newHandshake(socket, f.server, nil), f.server.o.SendTimeout)
}

// ServerFlags returns the protocol's flags of the export, for such a client.
func (f *Frontend) ServerFlags() uint64 { return uint64(f.flags(false)) }
