// Package fuse shows volumes as block devices on any kernel since 5.8, without a module
// of our own: a FUSE filesystem with one file, which this process serves, and a loop
// device over it.
//
// The filesystem is mounted nowhere. The loop device uses direct I/O, so a request of
// a device's user becomes one request of ours, with the data in pages that the kernel
// copies once. Discards arrive as punched holes, write-zeroes as zeroed ranges, flushes
// as fsync, and reads and writes of up to 1 MiB, or 256 KiB where devices share memory.
//
// A keeper (package keeper) owns the connection while processes come and go. After a
// crash the successor does what was not answered: the kernel sends it again (since Linux
// 6.9), or it is still in the slots that requests are read into, which are memory of
// the keeper's. Where the kernel can, devices share the memory for data: see [Pool].
//
// No thread of this process ever waits for an answer of this process: see package
// errand.
//
// A request that a user's signal interrupts is finished nevertheless. A flush, a discard
// or a write of zeroes, which may be 4 GiB long, holds up the writes that are begun
// while it is under way: that is the kernel's doing, and a reason for backends to be
// quick about them.
//
// Nothing is changed in the device's queue (/sys/block/loopN/queue): what is set there
// stays when the device goes, and is the next user's.
package fuse

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Config is what a front end needs besides its options.
type Config struct {
	// Keeper is the connection of this data process to its keeper.
	Keeper *keeper.Client
	// Errand starts processes that wait for this one to answer.
	Errand errand.Command
	// FromSlots has a successor take unanswered requests from the slots though its kernel
	// could send them again.
	FromSlots bool
	// Pool, unless nil, is for the data of requests, where the kernel can send them again.
	// It belongs to the options' loop.
	Pool *Pool
}

// Frontend is an attach.Frontend.
type Frontend struct {
	*attach.Life
	o         attach.Options
	errand    errand.Command
	fromSlots bool
	pool      *Pool

	// Set by Start, before which nothing but Abort may be called.
	server *server
	slots  *slots
	fuse   int // descriptors; -1 is none
	memory int

	gone    chan struct{} // closed when the connection is
	drained chan struct{} // closed when, after that, the backend has nothing of ours

	mu     sync.Mutex
	keeper *keeper.Client
	meta   meta
	node   int             // O_PATH, of the file; while it is open the connection keeps its number
	loop   *loopdev.Device // nil is none
	wanted bool            // the end is no surprise
	cause  error           // of the end
}

var _ attach.Frontend = (*Frontend)(nil)

// New returns a front end that is not started. The error is fault.Invalid.
func New(o attach.Options, c Config) (*Frontend, error) {
	o, err := o.WithDefaults()
	if err != nil {
		return nil, err
	}
	if c.Keeper == nil || len(c.Errand) == 0 {
		return nil, fault.Errorf("fuse.New", fault.Invalid, "a keeper and a command for errands are needed")
	}
	return &Frontend{Life: attach.NewLife("fuse", o), o: o, errand: c.Errand, fromSlots: c.FromSlots, pool: c.pool(), keeper: c.Keeper,
		gone: make(chan struct{}), drained: make(chan struct{}), fuse: -1, memory: -1, node: -1}, nil
}

// pool returns the pool, unless what is in it would be missed.
func (c Config) pool() *Pool {
	if c.FromSlots {
		return nil
	}
	return c.Pool
}

// Start is attach.Frontend.Start.
func (f *Frontend) Start(ctx context.Context) error {
	return f.Begin(ctx, func() error {
		err := f.start(ctx)
		if err == nil {
			f.warnOfTimeouts()
		}
		return err
	})
}

func (f *Frontend) start(ctx context.Context) error {
	e, files, err := f.keeper.Get(ctx, f.o.Name)
	if fault.Is(err, fault.NotFound) {
		return f.create(ctx)
	}
	var m meta
	if err == nil {
		m, err = parseMeta(e)
	}
	if err != nil {
		packet.CloseAll(files)
		f.Finish(err)
		return err
	}
	if m.Phase == ready && len(files) == filesCount && connected(files[fileFuse]) {
		return f.takeOver(ctx, e, m, files)
	}
	// A start or a stop was cut short, or the device was aborted while nobody served it.
	packet.CloseAll(files)
	if err := f.keeper.Remove(ctx, f.o.Name); err != nil {
		f.Finish(err)
		return err
	}
	return f.create(ctx)
}

// Stats is attach.Frontend.Stats.
func (f *Frontend) Stats() attach.Stats {
	if !f.Started() {
		return attach.Stats{}
	}
	return f.server.meter.Stats()
}

// Resize is attach.Frontend.Resize.
func (f *Frontend) Resize(ctx context.Context, size int64) error {
	return f.Running(ctx, "Resize", func() error {
		if err := f.o.CheckResize(size); err != nil {
			return err
		}
		return f.resize(ctx, size)
	})
}

// resize makes the device size bytes long; it is no longer than that.
func (f *Frontend) resize(ctx context.Context, size int64) error {
	if err := f.On(func() { f.server.file.size = size }); err != nil {
		return err
	}
	if err := forgetSize(f.fuse); err != nil {
		return err
	}
	if err := f.errand.Resize(ctx, f.node, f.loop.FD(), size); err != nil {
		return err
	}
	f.o.Size = size
	return nil
}

// Keep puts the device into another keeper, after the one before was lost. Until that
// is done the device ends with this process.
func (f *Frontend) Keep(ctx context.Context, k *keeper.Client) error {
	return f.Running(ctx, "Keep", func() error {
		f.mu.Lock()
		f.keeper = k
		m := f.meta
		f.mu.Unlock()
		return f.put(ctx, m)
	})
}

// put has the keeper keep the device, as far as it is there.
func (f *Frontend) put(ctx context.Context, m meta) error {
	f.mu.Lock()
	files := []int{f.fuse, f.memory}
	if f.node >= 0 {
		files = append(files, f.node)
	}
	if f.loop != nil && m.Phase == ready {
		files = append(files, f.loop.FD())
	}
	f.meta = m
	k := f.keeper
	f.mu.Unlock()
	e, err := m.entry(f.o.Name)
	if err != nil {
		return err
	}
	e.Wait = f.o.Wait
	return k.Put(ctx, e, files)
}

// connected reports whether the connection of fd lives.
func connected(fd int) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	_, err := unix.Poll(p, 0)
	return err == nil && p[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) == 0
}

// cleanUpWait bounds calls to the keeper while a device is being taken down.
const cleanUpWait = 10 * time.Second
