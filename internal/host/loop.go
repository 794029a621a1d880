package host

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

var zeroVolume block.VolumeID

// Loop is one goroutine, on an OS thread of its own, that everything on its disks,
// watches and timers happens on: [Loop.Run] is the goroutine. Others reach it by
// [Loop.Post]. A loop carries many disks and volumes; what it calls must not block.
//
// The Go scheduler counts a loop that waits in the kernel as running for some
// microseconds, and makes one that wakes up queue for its turn behind goroutines that
// compute. GOMAXPROCS of the number of cores plus that of loops leaves that to the
// kernel's scheduler, which is better at it (docs/decisions/0001).
//
// Disks on one loop do not take each other's turns, slots or workers. They do share
// the few threads that the kernel has for operations that must wait inside it, so a
// disk whose hanging must not be felt by others wants a loop of its own.
type Loop struct {
	options  Options
	clock    Clock
	engine   engine
	chosen   Engine
	noRing   error // why EngineAuto chose the pool
	inbox    *inbox
	bell     *Watch
	timers   timers
	stopping atomic.Bool

	mu   sync.Mutex // for those that change list
	list atomic.Pointer[[]*Dir]
}

// NewLoop returns a loop that does nothing until it is Run. The error is Unsupported
// when o asks for an engine that this machine does not have.
func NewLoop(o Options) (*Loop, error) { return newLoop(o, true) }

// newLoop returns a loop; pinned means that Run will drive it.
func newLoop(o Options, pinned bool) (*Loop, error) {
	l := &Loop{options: o.withDefaults(), clock: RealClock{}}
	l.list.Store(new([]*Dir))
	if err := l.chooseEngine(pinned); err != nil {
		return nil, err
	}
	if l.options.Threads == 0 {
		l.options.Threads = 4
		if l.chosen == EnginePool {
			l.options.Threads = 16
		}
	}
	var err error
	if l.inbox, err = openInbox(l.options.Inbox); err != nil {
		l.engine.close()
		return nil, fault.E("host.NewLoop", fault.KindOf(err), zeroVolume, err)
	}
	l.bell = l.Watch(l.inbox.bell, Readable, func() {
		l.inbox.silence()
		l.bell.Arm()
	})
	l.bell.Arm()
	return l, nil
}

func (l *Loop) chooseEngine(pinned bool) error {
	o := &l.options
	if o.Engine == EnginePool {
		l.engine, l.chosen = &poller{}, EnginePool
		return nil
	}
	r, err := newRing(l, pinned, o.entries, o.completions)
	if err == nil {
		l.engine, l.chosen = r, EngineRing
		return nil
	}
	if o.Engine == EngineRing {
		return err
	}
	l.engine, l.chosen, l.noRing = &poller{}, EnginePool, err
	return nil
}

// WhyNoRing returns why EngineAuto became EnginePool; nil when it did not.
func (l *Loop) WhyNoRing() error { return l.noRing }

// Engine returns the engine that the loop has: EngineRing or EnginePool.
func (l *Loop) Engine() Engine { return l.chosen }

// Now returns what the loop's clock says, which is the [RealClock].
func (l *Loop) Now() time.Duration { return l.clock.Now() }

// Run is the loop: it calls what was posted, what timers, watches and finished
// operations call for, until Stop was called or ctx is done; then until all that was
// submitted is done and all that was posted was called. It is called once, by any
// goroutine. A device that never answers keeps it from returning.
func (l *Loop) Run(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer context.AfterFunc(ctx, l.Stop)()
	l.engine.begin()
	for !l.stopped() {
		l.turn(-1)
	}
}

// Stop makes Run return. Any goroutine may call it, more than once.
func (l *Loop) Stop() {
	l.stopping.Store(true)
	l.TryPost(func() {}) // a loop whose inbox is full has its eyes open
}

func (l *Loop) stopped() bool {
	if !l.stopping.Load() {
		return false
	}
	for _, d := range l.dirs() {
		if d != nil && d.inFlight > 0 {
			return false
		}
	}
	return l.inbox.closeIfEmpty()
}

// Post has f called on the loop's goroutine, after what was posted before it. It
// waits while the inbox is full, so the loop's own goroutine must use TryPost. False
// means that the loop has ended and f won't be called.
func (l *Loop) Post(f func()) bool { return l.inbox.post(f, true) }

// TryPost is Post that returns false, without waiting, when the inbox is full.
func (l *Loop) TryPost(f func()) bool { return l.inbox.post(f, false) }

// Close gives back what the loop holds, its disks with their files included. Run must
// have returned, or never have been called.
func (l *Loop) Close() {
	for _, d := range l.dirs() {
		if d != nil {
			d.release()
		}
	}
	l.inbox.closeIfEmpty()
	l.engine.close()
	closeFD(l.inbox.bell)
}

// turn sends what was submitted, waits at most for wait for something to happen, and
// calls what that calls for. It may be called from inside what it calls.
func (l *Loop) turn(wait time.Duration) {
	refused := false
	for _, d := range l.dirs() {
		if d != nil {
			d.send()
			refused = refused || d.refused.head != nil
		}
	}
	if refused || l.engine.pending() || l.inbox.count.Load() > 0 {
		wait = 0
	}
	wait = l.timers.limit(wait, l.clock)
	if wait != 0 && !l.inbox.sleep() {
		wait = 0
	}
	l.engine.wait(wait)
	l.inbox.awake()

	l.engine.reap()
	l.empty()
	l.timers.run(l.clock)
	if refused {
		for _, d := range l.dirs() {
			if d != nil {
				d.refuse()
			}
		}
	}
}

// empty calls what was in the inbox when it was called.
func (l *Loop) empty() {
	for n := l.inbox.count.Load(); n > 0; n-- {
		s, f := l.inbox.take()
		switch {
		case s != nil:
			s.dir.worked(s)
		case f != nil:
			f()
		}
	}
}

// dirs returns the loop's disks by index; where one was closed there is nil.
func (l *Loop) dirs() []*Dir { return *l.list.Load() }

// add gives d an index.
func (l *Loop) add(d *Dir) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Clone(l.dirs())
	if d.index = slices.Index(list, nil); d.index < 0 {
		d.index = len(list)
		list = append(list, nil)
	}
	list[d.index] = d
	l.list.Store(&list)
}

// drop takes d's index back.
func (l *Loop) drop(d *Dir) {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := slices.Clone(l.dirs())
	list[d.index] = nil
	l.list.Store(&list)
}
