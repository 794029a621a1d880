package store

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Options are what a replica needs to know of its surroundings.
type Options struct {
	// Boot names the boot of the machine: records that a dead process left are
	// believed only within the boot in which they were written. 0 is a boot of its own.
	Boot uint64
	// Space is asked before the replica grows; nil admits everything.
	Space Space
	// TablesMax is how many block tables are kept in memory, 12 KiB each; 0 is 2048.
	TablesMax int
	// FilesMax is how many chunk files are kept open; 0 is 1024. Random reads all
	// over more than these are about half as fast: each has a file opened first.
	FilesMax int
	// Shared bounds what this replica and others take together; nil bounds nothing more.
	Shared *Shared
	// JournalBlocks is the length of a new replica's journal, in 4 KiB blocks; 0 is
	// 1024. The least is 16.
	JournalBlocks int
}

// Space decides whether a pool can take more. Admit returns a fault.NoSpace error
// when bytes more would use up the reserve.
type Space interface {
	Admit(bytes int64) error
}

func (o Options) withDefaults() Options {
	if o.TablesMax == 0 {
		o.TablesMax = 2048
	}
	if o.FilesMax == 0 {
		o.FilesMax = 1024
	}
	if o.JournalBlocks == 0 {
		o.JournalBlocks = 1024
	}
	o.TablesMax = max(o.TablesMax, 8)
	o.FilesMax = max(o.FilesMax, 8)
	o.JournalBlocks = max(o.JournalBlocks, 16)
	return o
}

// Replica is one copy of a volume that is open. It belongs to the goroutine that
// drives its disk.
type Replica struct {
	disk host.Disk
	dir  string
	opts Options

	man      Manifest         // as it is on disk; while a snapshot is sealed, as it will be
	unsealed block.Generation // the live one while it is not decided whether Sealing has ended
	manLock  taskLock
	syncs    taskLock // of chunk files, see syncAlone
	growLock taskLock
	session  uint32
	lock     host.File
	locked   bool
	broken   error            // set when the replica lost something: every request fails with it
	lost     error            // why an earlier process was broken
	crashed  bool             // the process before did not close it
	forgot   bool             // and the machine lost what was not flushed, as far as is known
	found    block.Generation // the live one when the replica was opened
	closed   bool
	// abandoned means that nothing goes on: a task that is stopped must not start other
	// tasks, requests or operations by what it does on its way out.
	abandoned bool

	regions regionTable
	chunks  map[block.Chunk]*chunk
	tables  tableCache
	files   fileCache
	journal journal
	flusher flusher
	saver   saver
	reclaim reclaimer

	epoch   block.Epoch // that writes carry from now on
	writes  uint64      // counts writes: the clock of Mark and Clean
	flights flights
	active  int     // requests issued and not done
	changes int     // Write and Zero requests that are not done
	running int     // requests being looked at now
	frozen  bool    // a snapshot is being taken: writes wait
	sealing sealing // a snapshot that is not durable yet
	thaw    reqList // those writes
	closer  *task   // waits for the other tasks to end
	quiet   *task   // waits until there are no changes
	streams streams
	free    *transfer
	one     [1]*host.Op // for submit
	tasks   map[*task]struct{}
}

// BadBlock says that what is stored is not what was written.
type BadBlock struct {
	Volume     block.VolumeID
	Generation block.Generation // as of which the block was read
	Block      block.Index
	What       string // "data", "block table", "region record", ...
	Detail     string
}

// Error prints all of it.
func (e *BadBlock) Error() string {
	return fmt.Sprintf("corrupt %s: generation %d, block %d (byte %d): %s",
		e.What, e.Generation, e.Block, e.Block.Offset(), e.Detail)
}

func (r *Replica) corrupt(op string, gen block.Generation, b block.Index, what, format string, args ...any) error {
	return fault.E(op, fault.Corrupt, r.man.Volume, &BadBlock{
		Volume: r.man.Volume, Generation: gen, Block: b, What: what, Detail: fmt.Sprintf(format, args...)})
}

// Manifest returns what the replica is. The caller may keep it.
func (r *Replica) Manifest() Manifest { return r.man.clone() }

// Err returns why the replica no longer serves, or nil. A replica whose sync failed
// lost something that it can't name; it must be opened again and be brought up to date
// from another copy.
func (r *Replica) Err() error { return r.broken }

// fail makes the replica refuse everything from now on: what was promised can no
// longer be kept.
func (r *Replica) fail(err error) error {
	if r.broken == nil {
		kind := fault.KindOf(err)
		if kind != fault.Corrupt {
			kind = fault.Media
		}
		r.broken = fault.E("store", kind, r.man.Volume, fmt.Errorf("the replica failed and must be resynced from another copy: %w", err))
		r.failWaiters()
		if r.locked && !r.abandoned {
			why := r.broken
			r.spawn("note loss", func(t *task) { t.noteLoss(why) })
		}
	}
	return r.broken
}

// failWaiters ends every parked request.
func (r *Replica) failWaiters() {
	err := r.broken
	r.failAll(&r.regions.waiters, err)
	for _, n := range slices.Sorted(maps.Keys(r.regions.waiting)) {
		rg := r.regions.waiting[n]
		r.failAll(&rg.rarely().waiters, err)
		rg.tidy()
	}
	clear(r.regions.waiting)
	for _, n := range slices.Sorted(maps.Keys(r.chunks)) {
		r.failAll(&r.chunks[n].waiters, err)
	}
	for _, f := range r.files.list {
		r.failAll(&f.waiters, err)
	}
	for _, t := range r.tables.list {
		r.failAll(&t.waiters, err)
	}
	r.failAll(&r.journal.waiters, err)
	if b := r.journal.filling; b != nil { // it will not be written any more
		waiting := b.waiting
		b.waiting = nil
		for _, x := range waiting {
			x.logged(err)
		}
	}
	r.failAll(&r.saver.waiters, err)
	r.failAll(&r.flusher.waiters, err)
	r.failAll(&r.sealing.flushes, err)
	r.failAll(&r.thaw, err)
	for t := range r.waitingTasks() {
		t.wake()
	}
}

// waitingTasks lists the tasks that wait for something that will not come any more
// when the replica has failed; disk operations always come.
func (r *Replica) waitingTasks() iter.Seq[*task] {
	tasks := []*task{r.journal.flusher, r.journal.marking, r.saver.waitingFor, r.quiet}
	tasks = append(tasks, r.regions.tasks...)
	tasks = append(tasks, r.sealing.tasks...)
	for _, w := range r.flusher.tasks {
		tasks = append(tasks, w.task)
	}
	return func(yield func(*task) bool) {
		for _, t := range tasks {
			if t != nil && !yield(t) {
				return
			}
		}
	}
}

// Abandon drops the replica as the death of the process would: nothing is written, no
// Done is called. For simulations and for a disk that is gone.
func (r *Replica) Abandon() { r.abandon(nil) }

// abandon stops every task but the one that calls.
func (r *Replica) abandon(caller *task) {
	r.closed, r.abandoned = true, true
	r.opts.Shared.leave(r)
	for t := range r.tasks {
		if t != caller {
			t.stop()
		}
	}
}

func (r *Replica) path(name string) string { return r.dir + "/" + name }

// Submit starts q. Requests whose extents overlap must not be in flight together,
// unless all of them read.
func (r *Replica) Submit(q *Request) {
	q.Err, q.left, q.counted, q.number, q.cursor = nil, 0, false, 0, q.Extent.Start
	q.tables, q.files = q.tables[:0], q.files[:0]
	if err := r.check(q); err != nil {
		q.Err = err
		q.Done(q)
		return
	}
	switch q.Verb {
	case Write:
		r.changes++
		r.ahead(q)
	case Zero:
		r.changes++
	}
	r.run(q)
}

// finish tells the caller that q is done.
func (r *Replica) finish(q *Request) {
	if r.abandoned {
		return
	}
	if q.number != 0 {
		r.flights.end(q.number)
	}
	if q.Verb == Write || q.Verb == Zero {
		r.changes--
		r.calmed()
	}
	q.Done(q)
}

// calmed tells a snapshot that a change has ended, or waits for the snapshot.
func (r *Replica) calmed() {
	if t := r.quiet; t != nil {
		r.quiet = nil
		t.wake()
	}
}

func (r *Replica) check(q *Request) error {
	const op = "store.Submit"
	if r.closed {
		return fault.E(op, fault.Precondition, r.man.Volume, fmt.Errorf("the replica is closed"))
	}
	if q.Verb == Flush {
		return nil
	}
	if q.Extent.Empty() || q.Extent.Start > block.Index(r.man.Size/block.Size) ||
		q.Extent.Count > uint64(r.man.Size/block.Size)-uint64(q.Extent.Start) {
		return fault.E(op, fault.Invalid, r.man.Volume, fmt.Errorf("blocks %v leave the volume of %d blocks", q.Extent, r.man.Size/block.Size))
	}
	if q.Verb == Read || q.Verb == Write {
		if q.Extent.Bytes() > RequestMax {
			return fault.E(op, fault.Invalid, r.man.Volume, fmt.Errorf("%d bytes in one request, at most %d", q.Extent.Bytes(), RequestMax))
		}
		if int64(len(q.Data)) != q.Extent.Bytes() || !host.Aligned(q.Data) {
			return fault.E(op, fault.Invalid, r.man.Volume, fmt.Errorf("%d bytes of data for %d blocks, or not aligned to %d", len(q.Data), q.Extent.Count, host.Align))
		}
	}
	if q.Verb != Zero && uint64(len(q.Sums)) != q.Extent.Count {
		return fault.E(op, fault.Invalid, r.man.Volume, fmt.Errorf("%d checksums for %d blocks", len(q.Sums), q.Extent.Count))
	}
	if (q.Verb == Read || q.Verb == Verify) && q.Generation != 0 && !r.man.live(q.Generation) {
		return fault.E(op, fault.NotFound, r.man.Volume, fmt.Errorf("generation %d does not exist", q.Generation))
	}
	return nil
}

// run takes q as far as it can go: to its transfers, or to the list of what it must
// wait for first, from where it is run again.
func (r *Replica) run(q *Request) {
	if r.abandoned {
		return
	}
	r.running++
	r.dispatch(q)
	if r.running--; r.saver.again {
		r.pump()
	}
}

func (r *Replica) dispatch(q *Request) {
	if r.broken != nil {
		r.end(q, r.broken)
		return
	}
	if (q.Verb == Read || q.Verb == Verify) && q.Generation != 0 && !r.man.live(q.Generation) {
		r.end(q, r.deleted(q.Generation))
		return
	}
	if r.frozen && (q.Verb == Write || q.Verb == Zero) && q.cursor == q.Extent.Start {
		r.thaw.push(q)
		r.calmed()
		return
	}
	switch q.Verb {
	case Read:
		r.read(q)
	case Verify:
		r.verify(q)
	case Write:
		r.write(q)
	case Zero:
		r.zero(q)
	case Flush:
		r.flusher.request(r, q)
	default:
		r.end(q, fault.Errorf("store.Submit", fault.Invalid, "verb %d is not known", q.Verb))
	}
}

// end finishes a request that has nothing in flight.
func (r *Replica) end(q *Request, err error) {
	q.letGo()
	q.Err = err
	r.finish(q)
}

// part reports that one of the parts of q that were counted in left has ended.
func (r *Replica) part(q *Request, err error) {
	if err != nil && q.Err == nil {
		q.Err = err
	}
	if q.left--; q.left > 0 {
		return
	}
	r.active--
	if q.counted {
		q.counted = false
		for n := q.step.FirstRegion(); n <= q.step.LastRegion(); n++ {
			rg := r.regions.at(n)
			if rg.writes--; rg.writes == 0 && rg.rare != nil && rg.rare.rescuer != nil {
				rg.rare.rescuer.wake()
			}
		}
	}
	if q.Verb != Read && q.Err == nil {
		q.Err = r.broken // it may have been lost since
	}
	if q.Err == nil && q.cursor < q.Extent.End() {
		r.run(q)
		return
	}
	r.finish(q)
}

// begin counts q as issued; part must be called once more for it.
func (r *Replica) begin(q *Request) {
	q.left = 1
	r.active++
}

// beginWrite is begin for a request that writes to the regions of its step.
func (r *Replica) beginWrite(q *Request) {
	r.begin(q)
	q.counted = true
	q.cursor = q.step.End()
	if q.number == 0 { // all its steps are one write, which is done when the last one is
		r.writes++
		q.number = r.writes
		r.flights.begin(q.number)
	}
	for n := q.step.FirstRegion(); n <= q.step.LastRegion(); n++ {
		rg := r.regions.at(n)
		if !r.intended(rg) {
			panic(fault.Bug("store: a write to region %d begins before its intent is durable", n))
		}
		rg.writes++
		rg.lastWrite = max(rg.lastWrite, q.number)
	}
}

// asBadBlock returns the BadBlock in err's chain, or nil.
func asBadBlock(err error) *BadBlock {
	var b *BadBlock
	if errors.As(err, &b) {
		return b
	}
	return nil
}
