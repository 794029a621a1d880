package attach

import (
	"context"
	"sync"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Life is what front ends that make devices have in common, whatever the driver: each is
// started once, does one thing at a time, shows one device, and ends once.
type Life struct {
	kind string // for texts, such as "fuse"
	o    Options

	control chan struct{} // holds one token while something works that must be alone
	aborted chan struct{}
	ended   chan struct{}

	mu      sync.Mutex
	device  Device
	started bool
	over    bool // the end has begun
	err     error
}

// NewLife returns the life of a front end of a kind that is not started.
func NewLife(kind string, o Options) *Life {
	return &Life{kind: kind, o: o, control: make(chan struct{}, 1), aborted: make(chan struct{}), ended: make(chan struct{})}
}

// Begin is Frontend.Start: start is called at most once.
func (l *Life) Begin(ctx context.Context, start func() error) error {
	return l.Alone(ctx, "Start", func() error {
		if l.Started() || l.HasEnded() {
			return fault.Errorf(l.kind+".Start", fault.Precondition, "a front end is started once")
		}
		if err := start(); err != nil {
			return err
		}
		l.mu.Lock()
		l.started = true
		l.mu.Unlock()
		return nil
	})
}

// Alone calls work while nothing else does that was begun by Alone.
func (l *Life) Alone(ctx context.Context, verb string, work func() error) error {
	op := l.kind + "." + verb
	if err := l.Take(ctx, op); err != nil {
		return err
	}
	defer l.Give()
	if err := work(); err != nil {
		return fault.E(op, fault.KindOf(err), l.o.Volume, err)
	}
	return nil
}

// Take waits until it can begin what is to be alone, and Give ends that.
func (l *Life) Take(ctx context.Context, op string) error {
	select {
	case l.control <- struct{}{}:
		return nil
	case <-ctx.Done():
		return GaveUp(ctx, op)
	}
}

// Give is explained at Take.
func (l *Life) Give() { <-l.control }

// Running is Alone for what needs a device that is there.
func (l *Life) Running(ctx context.Context, verb string, work func() error) error {
	return l.Alone(ctx, verb, func() error {
		if !l.Started() || l.Over() || l.HasEnded() {
			return fault.Errorf(l.kind+"."+verb, fault.Precondition, "the device is not there")
		}
		return work()
	})
}

// On calls work on the loop's goroutine and waits until it has returned.
func (l *Life) On(work func()) error {
	done := make(chan struct{})
	if !l.o.Loop.Post(func() { defer close(done); work() }) {
		return fault.Errorf(l.kind, fault.Canceled, "the loop has ended")
	}
	<-done
	return nil
}

// Fence waits until nothing that predecessors began can take effect any more.
func (l *Life) Fence(ctx context.Context) error {
	if l.o.Fence == nil {
		return nil
	}
	fenced := make(chan error, 1)
	done := func(err error) {
		select {
		case fenced <- err:
		default: // called twice
		}
	}
	if err := l.On(func() { l.o.Fence(done) }); err != nil {
		return err
	}
	select {
	case err := <-fenced:
		return err
	case <-l.aborted:
		return fault.Errorf(l.kind+".fence", fault.Canceled, "the device was aborted")
	case <-ctx.Done():
		return GaveUp(ctx, l.kind+".fence")
	}
}

// Fits returns why a device that a predecessor left can't be what the options say: have
// are the options that it has by itself.
func (l *Life) Fits(have Options) error {
	op, differs := l.kind+".fits", ""
	switch {
	case have.Volume != l.o.Volume:
		return fault.WithCure(fault.Errorf(op, fault.Exists, "%q is the name of volume %s, which is attached", l.o.Name, have.Volume),
			"detach that first, or use another name")
	case have.BlockSize != l.o.BlockSize:
		differs = "block size"
	case have.ReadOnly != l.o.ReadOnly:
		differs = "mode (read-only or not)"
	case have.NoDiscard != l.o.NoDiscard:
		differs = "setting of discard"
	default:
		return nil
	}
	return fault.WithCure(fault.Errorf(op, fault.Precondition, "the device of %q is attached with another %s", l.o.Name, differs), "detach it first")
}

// Show gives the kernel's device at path the volume's name.
func (l *Life) Show(path string) error {
	link, err := Link(l.o.LinkDir, l.o.Name, path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.device = Device{Path: path, Link: link}
	return nil
}

// Device is Frontend.Device.
func (l *Life) Device() Device {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.device
}

// Started reports whether Begin has returned without an error.
func (l *Life) Started() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.started
}

// Claim begins the end, and reports whether it was not begun before.
func (l *Life) Claim() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.over
	l.over = true
	return first
}

// Over reports whether the end has begun.
func (l *Life) Over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over
}

// Aborting closes Aborted, once.
func (l *Life) Aborting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.aborted:
	default:
		close(l.aborted)
	}
}

// Aborted is closed when the device is to end at once.
func (l *Life) Aborted() <-chan struct{} { return l.aborted }

// ErrAborted is why something is not done any more.
func (l *Life) ErrAborted(verb string) error {
	return fault.Errorf(l.kind+"."+verb, fault.Canceled, "the device was aborted")
}

// Finish ends the front end because of err, once.
func (l *Life) Finish(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.HasEnded() {
		return
	}
	l.err = err
	close(l.ended)
}

// Ended is Frontend.Ended.
func (l *Life) Ended() <-chan struct{} { return l.ended }

// HasEnded reports whether Ended is closed.
func (l *Life) HasEnded() bool {
	select {
	case <-l.ended:
		return true
	default:
		return false
	}
}

// Err is Frontend.Err.
func (l *Life) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}
