package fuse

import (
	"context"
	"errors"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/attach/loopdev"
	"github.com/holdfast-io/holdfast/internal/attach/packet"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// takeOver goes on with a device that a predecessor left. Until the fence is through
// nothing is changed about it, so whoever fails leaves it to the next.
func (f *Frontend) takeOver(ctx context.Context, e keeper.Entry, m meta, files []int) error {
	f.adopt(m, files)
	err := f.fits(m)
	if err == nil {
		err = f.prepare(e, &m)
	}
	if err == nil {
		err = f.Fence(ctx)
	}
	if err == nil {
		// Before anything is read: should this process die, its successor must not find
		// the device as clean as its predecessor left it.
		err = f.put(ctx, m)
	}
	if err != nil {
		f.giveUp()
		f.Finish(err)
		return err
	}
	go f.awaitEnd()
	resumed, err := f.serve(ctx, e.Clean)
	if err != nil {
		go f.leave(err, resumed)
	}
	return err
}

// giveUp leaves the device as it was, unless that was aborted.
func (f *Frontend) giveUp() {
	select {
	case <-f.Aborted():
		f.mu.Lock()
		path := f.loop.Path()
		f.mu.Unlock()
		f.unlink(path)
		f.forget()
	default:
	}
	f.letGo()
}

// serve begins to serve, and does what a predecessor may have left half done, or what
// was ordered while nobody served.
func (f *Frontend) serve(ctx context.Context, clean bool) (resumed bool, err error) {
	if !clean {
		var repeatErr error
		err = f.On(func() { repeatErr = f.server.repeat(f.fromSlots || !f.meta.Resend) })
		if err = errors.Join(err, repeatErr); err != nil {
			return false, err
		}
	}
	if err := f.On(f.server.resume); err != nil {
		return false, err
	}
	size, err := f.loop.Size()
	if err == nil && size != f.o.Size {
		err = f.resize(ctx, f.o.Size)
	}
	if err == nil {
		err = f.show()
	}
	return true, err
}

// leave leaves the device, which could not be served because of err, to the next who
// tries.
func (f *Frontend) leave(err error, resumed bool) {
	_ = f.Take(context.Background(), "") // which does not end
	defer f.Give()
	if f.drain(context.Background()) != nil {
		f.mu.Lock()
		f.cause = err
		f.mu.Unlock()
		return // it was aborted: awaitEnd cleans up
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanUpWait)
	defer cancel()
	if releaseErr := f.keeper.Release(ctx, f.o.Name, resumed); releaseErr != nil {
		f.o.Log.Warn("the keeper believes that the device is served", obs.Err(releaseErr))
	}
	f.letGo()
	f.Finish(err)
}

// adopt makes the files, in the keeper's order, those of f.
func (f *Frontend) adopt(m meta, files []int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.meta, f.fuse, f.memory, f.node = m, files[fileFuse], files[fileMemory], files[fileNodeFD]
	f.loop, _ = loopdev.Held(files[fileLoop]) // fits finds out
	if f.loop == nil {
		packet.CloseAll(files[fileLoop:])
	}
}

// fits returns why the device can't be what the options say.
func (f *Frontend) fits(m meta) error {
	if err := f.Fits(attach.Options{Volume: m.Volume, BlockSize: m.BlockSize, ReadOnly: m.ReadOnly, NoDiscard: m.NoDiscard}); err != nil {
		return err
	}
	if f.loop == nil {
		return fault.Errorf("fuse.fits", fault.Corrupt, "what the keeper has under %q is no loop device", f.o.Name)
	}
	size, err := f.loop.Size()
	if err == nil && size > f.o.Size {
		err = fault.Errorf("fuse.fits", fault.Precondition, "the device has %d bytes, more than its volume's %d", size, f.o.Size)
	}
	return err
}

// prepare makes the server, which does not read yet. Where nothing is to be got from
// the predecessor's slots their number may change.
func (f *Frontend) prepare(e keeper.Entry, m *meta) error {
	g := f.geometry(f.pool != nil && m.Slots.Pooled) // what is pooled has shorter requests, for ever
	if g != m.Slots {
		if !e.Clean && (f.fromSlots || !m.Resend) {
			return fault.WithCure(fault.Errorf("fuse.prepare", fault.Precondition,
				"requests of a dead process are in %d slots (%d large), this one wants %d (%d)", m.Slots.Depth, m.Slots.Large, g.Depth, g.Large),
				"start with the same depths, then change them by a planned restart")
		}
		fd, err := newMemory(g)
		if err != nil {
			return err
		}
		packet.CloseAll([]int{f.memory})
		f.memory, m.Slots = fd, g
	}
	return f.newServer(g)
}
