package node

import (
	"context"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/store"
)

// A filesystem that can't write its own metadata shuts down: XFS does after an error of the
// disk below it, be it broken, full or gone. From then on nothing can be read or written
// there, even when the disk is well again, before it was unmounted and mounted anew. So all
// that is open there is closed; then the filesystem repairs itself from its log, and the
// replicas are opened as after a crash.

// revive mounts a pool's filesystem anew, if that has shut down, and opens its replicas. It
// is tried again later when it fails.
func (d *daemon) revive(ctx context.Context, p *ownPool) {
	if !p.pool.IsShut() {
		return
	}
	log := d.o.Log.With("pool", p.pool.Path())
	log.Error("the filesystem of a pool has shut down; it is unmounted and mounted anew. What the kernel says (dmesg) has the cause")
	if !p.quit(ctx) {
		return
	}
	if err := p.pool.Remount(ctx); err != nil {
		log.Error("the pool can't be mounted; it is tried again", "err", err)
		return
	}
	disk, err := d.node.loop.Open(p.pool.Volumes())
	if err != nil {
		log.Error("the pool can't be used; it is tried again", "err", err)
		return
	}
	space := p.pool.Space()
	if d.node.do(func() { p.crashed(); p.back(disk, space) }) {
		log.Warn("the pool is mounted again, and its replicas are brought up to date")
	}
}

// quitEvery is how often quit looks whether all is closed.
const quitEvery = 20 * time.Millisecond

// quit closes everything in the pool; false when ctx ended, or the node did.
func (o *ownPool) quit(ctx context.Context) bool {
	for {
		quiet := true
		if !o.n.do(func() { quiet = o.leave() }) {
			return false
		}
		if quiet {
			return true
		}
		select {
		case <-time.After(quitEvery):
		case <-ctx.Done():
			return false
		}
	}
}

// leave closes what can be closed now, and reports whether nothing is open any more. What
// the replicas were asked for ends soon, in vain.
func (o *ownPool) leave() bool {
	o.away = true
	quiet := true
	for _, r := range o.n.residents {
		if r.pool == o && !r.leavePool() {
			quiet = false
		}
	}
	if !quiet || o.disk == nil {
		return quiet
	}
	if o.disk.InFlight() > 0 {
		return false
	}
	o.disk.Close()
	o.disk = nil
	return true
}

// leavePool closes the store, and reports whether it is closed.
func (r *resident) leavePool() bool {
	if r.gone {
		return r.inflight == 0
	}
	if !r.failing.noticed {
		// The owner may have nothing to write, and would not notice.
		r.step(residentEvent{ev: replica.Leave{Why: "the filesystem of its pool has shut down"}})
		r.failing.times++ // it comes back as another incarnation
		r.fail(fault.Errorf("node.pool", fault.Media, "the filesystem of its pool has shut down"))
		r.hangUp()
	}
	if r.inflight == 0 && !r.failing.shut && r.closing == nil {
		r.shut()
	}
	return r.failing.shut && r.inflight == 0
}

// hangUp ends the conversations with heads of this node, so that those ask anew, and wait
// where they have no other copy, instead of handing errors on.
func (r *resident) hangUp() {
	var near []*local
	for _, to := range r.sessions {
		if l, ok := to.(*local); ok {
			near = append(near, l)
		}
	}
	for _, l := range near {
		l.close()
		l.h.unlinked(l.member, l, nil)
	}
}

// back has the pool's replicas opened on its new disk.
func (o *ownPool) back(on *disk, space store.Space) {
	o.disk, o.space, o.away = on, space, false
	for _, r := range o.n.residents {
		if r.pool == o && r.failing.shut && r.closing == nil {
			r.inflight++ // a close waits
			r.openAgain()
		}
	}
}
