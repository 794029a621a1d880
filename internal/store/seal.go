package store

import (
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// A snapshot for which writes wait as shortly as can be is taken in three steps. Prepare
// notes in the manifest which generation is about to end: that may take long, and nobody
// waits for it. Seal ends it, in memory alone, and writes go on, to the next generation.
// Then the store makes durable, by itself, that it is a snapshot; Confirm waits for that.
//
// A process that dies in between leaves a manifest with the note, and perhaps files of the
// next generation. If the machine lived on, these files tell that the generation had
// ended, with all that was written in it: it becomes a snapshot after all. If not, what
// was written in it need not all be there: it is the live one again, and what came after
// it is given up, which nobody was promised, because no flush is confirmed before the
// snapshot is durable.

// sealing is a snapshot that is taken and not durable yet.
type sealing struct {
	gen     block.Generation // 0 none
	task    *task            // that makes it durable
	flushes reqList          // that were asked for since
	tasks   []*task          // that wait for it
	refused int              // attempts that found no space
	noSpace error            // of the last one
	idle    bool             // the task waits until somebody wants another
}

// kick has another attempt made after one that found no space.
func (s *sealing) kick() {
	if s.idle {
		s.idle = false
		s.task.wake()
	}
}

// void says that what the journal has of generations above Above, in blocks through
// Through, does not count: it was given up.
type void struct {
	Above   block.Generation `json:"above"`
	Through uint64           `json:"through"`
}

// Prepare notes durably that generation gen, the live one or a higher number, is about to
// end. One that is a snapshot already is a success.
func (r *Replica) Prepare(gen block.Generation, done func(error)) {
	r.spawn("prepare snapshot", func(t *task) { done(fault.Wrap("store.Prepare", t.prepareSeal(gen))) })
}

func (t *task) prepareSeal(gen block.Generation) error {
	r := t.r
	if slices.Contains(r.man.Snapshots, gen) || r.man.Sealing == gen {
		return r.broken
	}
	if gen < r.man.Generation {
		return r.overBy(gen)
	}
	return t.change(func(m *Manifest) {
		if gen >= m.Generation {
			m.Sealing = gen
		}
	})
}

func (r *Replica) overBy(gen block.Generation) error {
	return fault.E("store.Snapshot", fault.Precondition, r.man.Volume, fmt.Errorf("generation %d is over, the live one is %d", gen, r.man.Generation))
}

// Seal ends generation gen, which was prepared: what is written from now on belongs to the
// next. It waits for the writes in flight, not for the disk. That gen is a snapshot is
// durable when Confirm says so.
func (r *Replica) Seal(gen block.Generation, done func(error)) {
	r.spawn("seal", func(t *task) {
		if err := t.seal(gen, func() { done(nil) }); err != nil {
			done(fault.Wrap("store.Seal", err))
		}
	})
}

// seal calls ended when the generation has ended, or returns why it has not.
func (t *task) seal(gen block.Generation, ended func()) error {
	r := t.r
	live := r.man.Generation
	if slices.Contains(r.man.Snapshots, gen) {
		ended()
		return nil
	}
	if r.frozen {
		return r.overBy(gen)
	}
	r.frozen = true
	err := t.lockManifest() // no other change is made before this one is
	if err == nil {
		defer t.unlock(&r.manLock)
		t.calm()
		err = r.turn(gen, t)
	}
	r.frozen = false
	r.rerun(&r.thaw)
	if err != nil {
		return err
	}
	ended()
	if t.confirm() == nil {
		r.trimReserved(live)
	}
	return nil
}

// turn makes the generation after gen the live one, for t to make that durable.
func (r *Replica) turn(gen block.Generation, t *task) error {
	switch {
	case r.broken != nil:
		return r.broken
	case gen < r.man.Generation:
		return r.overBy(gen)
	case r.man.Sealing != gen:
		return fault.E("store.Seal", fault.Precondition, r.man.Volume, fmt.Errorf("generation %d was not prepared to end", gen))
	}
	r.man.Snapshots = append(slices.Clone(r.man.Snapshots), gen)
	r.man.Generation = gen + 1
	r.sealing.gen, r.sealing.task = gen, t
	return nil
}

// calm waits until no write or zeroing is under way but those that wait for the snapshot.
func (t *task) calm() {
	r := t.r
	for r.changes > r.thawing() && r.broken == nil {
		r.quiet = t
		t.park()
	}
}

// confirm makes durable that the generation which was sealed is a snapshot. While there is
// no space for that nothing can be flushed; a flush that is wanted tries again.
func (t *task) confirm() error {
	r := t.r
	s := &r.sealing
	err := t.flush()
	for err == nil {
		m := r.man.clone()
		m.Sealing = 0
		if err = t.writeManifest(m); !fault.Is(err, fault.NoSpace) || r.broken != nil {
			break
		}
		s.refused++
		s.noSpace, s.idle = err, true
		tasks := append(s.tasks, r.manLock.waiting...)
		s.tasks, r.manLock.waiting = nil, nil
		r.failAll(&s.flushes, err)
		wakeAll(tasks)
		for s.idle && r.broken == nil && r.closer == nil {
			t.park()
		}
		if r.broken == nil && s.idle {
			return err // the next process sees to it
		}
		err = r.broken
	}
	if err != nil {
		err = r.fail(err)
	}
	flushes, tasks := s.flushes, s.tasks
	*s = sealing{}
	r.rerun(&flushes)
	wakeAll(tasks)
	return err
}

func wakeAll(tasks []*task) {
	for _, t := range tasks {
		t.wake()
	}
}

// Confirm calls done when generation gen, which was sealed, is durable as a snapshot, or
// with fault.Precondition if it is none.
func (r *Replica) Confirm(gen block.Generation, done func(error)) {
	r.spawn("confirm", func(t *task) { done(fault.Wrap("store.Confirm", t.awaitSealed(gen))) })
}

func (t *task) awaitSealed(gen block.Generation) error {
	r := t.r
	if err := t.awaitSeal(); err != nil {
		return err
	}
	if !slices.Contains(r.man.Snapshots, gen) {
		return fault.E("store.Confirm", fault.Precondition, r.man.Volume, fmt.Errorf("generation %d is no snapshot", gen))
	}
	return nil
}

// awaitSeal waits while a snapshot that was taken is being made durable, unless there is no
// space for that.
func (t *task) awaitSeal() error {
	r := t.r
	s := &r.sealing
	for refused := s.refused; s.gen != 0 && s.task != t && r.broken == nil; {
		if s.refused > refused {
			return s.noSpace
		}
		s.tasks = append(s.tasks, t)
		s.kick()
		if !slices.Contains(s.tasks, t) {
			continue
		}
		t.park()
	}
	return r.broken
}

// begunAfter lists the chunk files of generations above gen.
func (r *Replica) begunAfter(gen block.Generation) (list []fileKey) {
	for n, c := range r.chunks {
		for g := c.after(gen); g != 0; g = c.after(g) {
			list = append(list, fileKey{n, g})
		}
	}
	slices.SortFunc(list, compareKeys)
	return list
}

// decideSeal decides what the generation is that was about to end when the process before
// this one died; intact says that nothing it wrote is lost. It returns the files that are
// given up.
func (r *Replica) decideSeal(intact bool) []fileKey {
	gen := r.man.Sealing
	if gen == 0 {
		return nil
	}
	begun := r.begunAfter(r.unsealed)
	if intact && len(begun) > 0 {
		r.man.Snapshots = append(slices.Clone(r.man.Snapshots), gen)
		return nil
	}
	r.man.Generation, r.found = r.unsealed, r.unsealed
	for _, key := range begun {
		r.chunks[key.chunk].remove(key.gen)
	}
	return begun
}

// resolveSeal does so, and removes those files. The rest is for finishSeal.
func (t *task) resolveSeal(intact bool) error {
	r := t.r
	given := r.decideSeal(intact)
	if len(given) == 0 {
		return nil
	}
	for _, key := range given {
		if _, err := t.do(host.Op{Kind: host.OpRemove, Path: r.chunkPath(key)}); err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	return t.syncDir(r.path("chunks"))
}

// finishSeal makes durable what resolveSeal decided.
func (t *task) finishSeal() error {
	r := t.r
	if r.man.Sealing == 0 {
		return nil
	}
	if r.man.Generation == r.unsealed {
		r.forgetAfter(r.unsealed)
		if err := t.commitAndWait(); err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil { // what is a snapshot now
		return err
	}
	return t.change(func(m *Manifest) {
		m.Sealing = 0
		m.Void = slices.DeleteFunc(m.Void, func(v void) bool { return v.Through < r.journal.tail })
		if m.Generation == r.unsealed {
			m.Void = append(m.Void, void{m.Generation, r.journal.start - 1})
		}
	})
}

// forgetAfter corrects the records of regions that name a generation after gen, which was
// given up. What a region had lost before that one is lost again.
func (r *Replica) forgetAfter(gen block.Generation) {
	r.regions.each(func(n block.Region, rg *region) bool {
		switch {
		case max(rg.lost, rg.tableGen) > gen:
			rg.damage(r.corrupt("store.Open", gen, n.Start(), "region record", "it was written anew in a generation that was given up"))
			r.regions.put(n)
		case rg.since > gen:
			rg.since = gen
			r.regions.put(n)
		}
		return true
	})
}

// voided reports whether a record of generation gen in journal block number was given up.
func (m *Manifest) voided(gen block.Generation, number uint64) bool {
	return slices.ContainsFunc(m.Void, func(v void) bool { return gen > v.Above && number <= v.Through })
}
