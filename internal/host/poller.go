package host

import (
	"slices"
	"syscall"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"golang.org/x/sys/unix"
)

// poller is the engine for where there is no io_uring: it waits in ppoll for the
// watches, by one of which workers say that they have finished, and leaves all
// operations to the workers.
type poller struct {
	armed   []*Watch
	fds     []unix.PollFd // one for each of armed, while in wait
	fired   []*Watch      // what reap has yet to deliver
	timeout unix.Timespec
}

func (p *poller) begin() {}

func (p *poller) start(*slot) bool { return false }

func (p *poller) arm(w *Watch) { p.armed = append(p.armed, w) }

func (p *poller) disarm(w *Watch) {
	isW := func(o *Watch) bool { return o == w }
	p.armed = slices.DeleteFunc(p.armed, isW)
	p.fired = slices.DeleteFunc(p.fired, isW)
}

func (p *poller) wait(timeout time.Duration) {
	if len(p.fired) > 0 {
		timeout = 0
	}
	p.fds = p.fds[:0]
	for _, w := range p.armed {
		p.fds = append(p.fds, unix.PollFd{Fd: int32(w.fd), Events: int16(pollEvents(w.events))})
	}
	var limit *unix.Timespec
	if timeout >= 0 {
		p.timeout = unix.NsecToTimespec(int64(timeout))
		limit = &p.timeout
	}
	n, err := unix.Ppoll(p.fds, limit, nil)
	if err != nil && err != syscall.EINTR && err != syscall.EAGAIN && err != syscall.ENOMEM {
		panic(fault.Bug("host: ppoll: %v", err))
	}
	if n <= 0 {
		return
	}
	kept := p.armed[:0]
	for i, w := range p.armed {
		if p.fds[i].Revents != 0 {
			p.fired = append(p.fired, w)
		} else {
			kept = append(kept, w)
		}
	}
	clear(p.armed[len(kept):])
	p.armed = kept
}

func (p *poller) pending() bool { return len(p.fired) > 0 }

func (p *poller) reap() {
	for n := len(p.fired); n > 0 && len(p.fired) > 0; n-- {
		w := p.fired[0]
		p.fired = slices.Delete(p.fired, 0, 1)
		w.fire()
	}
}

func (p *poller) close() {}
