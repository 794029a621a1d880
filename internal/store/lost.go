package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// lostName is the file in which a replica that failed notes why. The process that comes
// next must know: what the kernel gave up on may be neither on the disk nor as it was, and
// without a loss of power in between nothing else tells it to forget what was not flushed.
const lostName = "lost"

const lostSizeMax = 4 << 10

// noteLoss leaves a note that the replica failed. On a disk that takes no note either,
// there is nothing left to be believed.
func (t *task) noteLoss(why error) {
	r := t.r
	text := why.Error()
	if err := t.writeFile(r.path(lostName), []byte(text[:min(len(text), lostSizeMax)])); err == nil {
		_ = t.syncDir(r.dir)
	}
}

// readLoss reads the note that noteLoss left, if there is one.
func (t *task) readLoss() error {
	b, err := t.readWhole(lostName, lostSizeMax)
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	t.r.lost = fault.E("store", fault.Media, t.r.man.Volume, errors.New(string(b)))
	return nil
}

// Lost returns why an earlier process could no longer keep what it promised, or nil. Such
// a replica shows what was flushed, and may lack anything written since, as after a loss
// of power; so it must not count until it was brought up to date from another copy, or
// until somebody decided that it is the best there is. Then call Accept.
func (r *Replica) Lost() error { return r.lost }

// Forgot reports whether an earlier process did not close the replica, and the machine
// was restarted since: what was not flushed may be missing, which another copy may have.
func (r *Replica) Forgot() bool { return r.forgot }

// Accept ends what Lost and Forgot say: the replica was brought up to date, or is taken as
// it is.
func (r *Replica) Accept(done func(error)) {
	r.spawn("accept", func(t *task) { done(fault.Wrap("store.Accept", t.accept())) })
}

// rescueAll writes again whatever the process before wrote last, if one of its syncs failed:
// from now on what is shown is to stay, and the disk may not have it.
func (t *task) rescueAll() error {
	r := t.r
	if r.lost == nil {
		return nil
	}
	for _, n := range slices.Clone(r.regions.dirty) {
		rg := r.regions.at(n)
		if !rg.suspect || rg.bad() != nil {
			continue
		}
		if err := t.settleRegion(n, rg); err != nil && !fault.Is(err, fault.Corrupt) { // that is reported to who reads it
			return err
		}
	}
	return t.commitAndWait()
}

func (t *task) accept() error {
	r := t.r
	// What recovery left out of the journal still lies there. As long as this session has
	// not written behind it, the next process would take it for the end of the journal.
	r.flusher.disown = r.flusher.disown || r.lost != nil || r.forgot
	if err := t.rescueAll(); err != nil {
		return err
	}
	if err := t.flush(); err != nil {
		return err
	}
	r.forgot = false
	if r.lost == nil {
		return nil
	}
	_, err := t.do(host.Op{Kind: host.OpRemove, Path: r.path(lostName)})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err := t.syncDir(r.dir); err != nil {
		return fault.E("store", fault.KindOf(err), r.man.Volume, fmt.Errorf("%s may come back: %w", r.path(lostName), err))
	}
	r.lost = nil
	return nil
}
