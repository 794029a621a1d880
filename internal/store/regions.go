package store

import (
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// region is what is known of one region in memory: its record as it should be on disk,
// and its state now. There is one for each region that was ever touched, 72 bytes; what
// few have at a time is in rare.
type region struct {
	record
	commit    uint64 // the commit of the region table that makes the record durable
	table     *table // of the live generation's view, when it is in memory
	lastWrite uint64 // Replica.writes at the last one
	rare      *rareRegion
	writes    uint16 // in flight; they don't overlap
	made      uint16 // how many tables it got since the replica was opened, to see a change
	gone      bool   // known to have no table at all
	loading   bool   // a task is looking for its table
	suspect   bool   // dirty since before the replica was opened: see settle
	stuck     bool   // settling failed: it stays dirty until the replica is opened again
}

// rareRegion is what is known of a region that somebody waits for, or that is damaged.
type rareRegion struct {
	bad      error   // why nothing can be read or written here
	damaged  bool    // its record on disk can't be believed, and says so until it is reset
	settling bool    // a task is about to end that the region is suspect
	settlers []*task // tasks that wait for it
	waiters  reqList
	rescuer  *task   // rewrites what a failed sync may have dropped: no write may come between
	writers  reqList // writes that wait for it
	// known are the blocks that were written in the generation that was found, since it was
	// found: whatever the crash left, their checksums are those of what was written. nil: none.
	known *[block.PerRegion / 64]uint64
}

// rarely returns what few regions have, to be changed. It is kept until tidy
// finds nothing in it.
func (rg *region) rarely() *rareRegion {
	if rg.rare == nil {
		rg.rare = new(rareRegion)
	}
	return rg.rare
}

// tidy drops what rarely made, if nothing is in it.
func (rg *region) tidy() {
	if x := rg.rare; x != nil && x.bad == nil && !x.damaged && !x.settling && len(x.settlers) == 0 && x.waiters.empty() && x.rescuer == nil && x.writers.empty() && x.known == nil {
		rg.rare = nil
	}
}

// bad returns why nothing can be read or written in the region, or nil.
func (rg *region) bad() error {
	if rg.rare == nil {
		return nil
	}
	return rg.rare.bad
}

// damaged reports whether the record of the region on disk can't be believed.
func (rg *region) damaged() bool { return rg.rare != nil && rg.rare.damaged }

// doubtful reports whether the checksum of block i, in the file of generation holder, can
// be one that a crash left behind: its region was dirty when the replica was opened, the
// file was written to since the region became dirty, and nobody has written the block
// since. A snapshot ends the doubt for what is written after it.
func (r *Replica) doubtful(rg *region, holder block.Generation, i int) bool {
	if !rg.suspect || holder < rg.since || holder > r.found {
		return false
	}
	return holder < r.found || rg.rare == nil || rg.rare.known == nil || rg.rare.known[i/64]>>(i%64)&1 == 0
}

// know notes that count blocks from first on were written, in generation gen.
func (r *Replica) know(rg *region, gen block.Generation, first, count int) {
	if !rg.suspect || gen != r.found {
		return
	}
	x := rg.rarely()
	if x.known == nil {
		x.known = new([block.PerRegion / 64]uint64)
	}
	for i := first; i < first+count; i++ {
		x.known[i/64] |= 1 << (i % 64)
	}
}

// settled ends that the region is suspect.
func (rg *region) settled() {
	rg.suspect = false
	if rg.rare != nil {
		rg.rare.known = nil
	}
}

// regionTable is the file `regions`: which regions may have checksums that are older
// than the data, and which epoch wrote to them last. Changes are committed in groups:
// one commit is in flight at a time, and carries all that came up meanwhile.
type regionTable struct {
	file    host.File
	opened  bool
	count   int
	blocks  []*[perTabBlock]region // nil: 128 regions that were never touched
	changed []int                  // blocks to write in the next commit, in no order

	next       uint64 // number of the next commit
	done       uint64 // number of the last durable one
	committing bool
	sent       []int   // the blocks that the commit in flight writes
	refused    uint64  // number of the last commit that failed for lack of space
	noSpace    error   // its error
	waiters    reqList // requests that wait for a commit
	tasks      []*task // tasks that do
	ops        []host.Op
	buf        []byte

	waiting map[block.Region]*region // regions with waiters
	dirty   []block.Region           // regions that are dirty, or were not long ago
}

func (rt *regionTable) init(count int) {
	rt.count = count
	rt.blocks = make([]*[perTabBlock]region, (count+perTabBlock-1)/perTabBlock)
	rt.waiting = make(map[block.Region]*region)
	rt.next = 1
}

// at returns region n, which must exist.
func (rt *regionTable) at(n block.Region) *region {
	b := &rt.blocks[n/perTabBlock]
	if *b == nil {
		*b = new([perTabBlock]region)
	}
	return &(*b)[n%perTabBlock]
}

// peek returns region n, or nil if it was never touched.
func (rt *regionTable) peek(n block.Region) *region {
	if b := rt.blocks[n/perTabBlock]; b != nil {
		return &b[n%perTabBlock]
	}
	return nil
}

// each calls f for every region that was ever touched, in order, until it says stop.
func (rt *regionTable) each(f func(n block.Region, rg *region) bool) {
	for i, b := range rt.blocks {
		if b == nil {
			continue
		}
		for j := range b {
			n := block.Region(i*perTabBlock + j)
			if int(n) < rt.count && !f(n, &b[j]) {
				return
			}
		}
	}
}

// put notes that the record of region n must go to disk with the next commit.
func (rt *regionTable) put(n block.Region) {
	rt.at(n).commit = rt.next
	i, last := int(n)/perTabBlock, len(rt.changed)-1
	if last >= 0 && rt.changed[last] == i {
		return // as with every region but the first of a block, when a replica is opened
	}
	if !slices.Contains(rt.changed, i) {
		rt.changed = append(rt.changed, i)
	}
}

// intended reports whether a write with epoch to region n may start: its record on
// disk says dirty, and says the epoch.
func (r *Replica) intended(rg *region) bool {
	return rg.since != 0 && rg.epoch == r.epoch && (rg.commit <= r.regions.done || fault.Planted("intent not durable before data"))
}

// intend makes region n dirty in the next commit, if it is not already.
func (r *Replica) intend(n block.Region) {
	rg := r.regions.at(n)
	if rg.since != 0 && rg.epoch == r.epoch {
		return
	}
	if rg.since == 0 {
		rg.since = r.man.Generation
		rg.lastWrite = r.writes
		r.regions.dirty = append(r.regions.dirty, n)
	}
	rg.epoch = r.epoch
	r.regions.put(n)
}

// commit starts a commit of the region table, unless one is in flight or none needed.
func (r *Replica) commit() {
	rt := &r.regions
	if rt.committing || len(rt.changed) == 0 || r.broken != nil {
		return
	}
	rt.committing = true
	number := rt.next
	rt.next++
	n := len(rt.changed)
	if cap(rt.buf) < n*block.Size {
		rt.buf = host.Buffer(n * block.Size)
	}
	rt.ops = rt.ops[:0]
	slices.Sort(rt.changed)
	for _, i := range rt.changed {
		b := rt.buf[len(rt.ops)*block.Size : (len(rt.ops)+1)*block.Size]
		r.encodeRecords(i, b)
		rt.ops = append(rt.ops, host.Op{Kind: host.OpWrite, File: rt.file, Offset: int64(i) * block.Size, Buf: b})
	}
	rt.sent, rt.changed = rt.changed, rt.sent[:0]
	left := n
	var failed error
	for i := range rt.ops {
		op := &rt.ops[i]
		op.Done = func(op *host.Op) {
			if op.Err != nil && (failed == nil || fault.Is(failed, fault.NoSpace)) {
				failed = op.Err
			}
			if left--; left > 0 {
				return
			}
			if failed != nil {
				r.committed(number, failed)
				return
			}
			op.Kind = host.OpSync
			op.Done = func(op *host.Op) { r.committed(number, op.Err) }
			r.submit(op)
		}
		r.submit(op)
	}
}

func (r *Replica) encodeRecords(i int, b []byte) {
	clear(b)
	recs := r.regions.blocks[i]
	if recs == nil {
		return
	}
	for j := range recs {
		if recs[j].damaged() {
			copy(b[j*recordSize:], damagedRecord[:])
			continue
		}
		recs[j].encode(b[j*recordSize:], block.Region(i*perTabBlock+j))
	}
}

// damage notes that the record of region n can't be believed. Neighbours that are
// written again must not make it look like one that was never written.
func (rg *region) damage(err error) {
	x := rg.rarely()
	x.damaged, x.bad, rg.record = true, err, record{}
}

// committed goes on after a commit. One that failed for lack of space fails those who
// wait for it, and the next one makes up for it: the others, who only overwrite what is
// there, go on.
func (r *Replica) committed(number uint64, err error) {
	rt := &r.regions
	rt.committing = false
	tasks := rt.tasks
	rt.tasks = nil
	switch {
	case fault.Is(err, fault.NoSpace):
		rt.refused, rt.noSpace = number, fault.E("store", fault.NoSpace, r.man.Volume, fmt.Errorf("region table: %w", err))
		for _, i := range rt.sent {
			if !slices.Contains(rt.changed, i) {
				rt.changed = append(rt.changed, i)
			}
		}
		r.failAll(&rt.waiters, rt.noSpace)
	case err != nil:
		r.fail(err)
	default:
		rt.done = number
		r.rerun(&rt.waiters)
	}
	for _, t := range tasks {
		t.wake()
	}
	if err == nil {
		r.commit()
	}
}

// commitAndWait makes every change of the region table up to now durable.
func (t *task) commitAndWait() error {
	r := t.r
	rt := &r.regions
	want, since := rt.next, rt.next
	if len(rt.changed) == 0 {
		want-- // what is in flight, if anything
	}
	if rt.committing {
		since-- // whose failure leaves its changes to the next one
	}
	for rt.done < want && r.broken == nil {
		if rt.refused >= since {
			return rt.noSpace
		}
		r.commit()
		rt.tasks = append(rt.tasks, t)
		t.park()
	}
	return r.broken
}

// streams remembers where the last few writes ended, to know a sequential writer.
type streams struct {
	ends [8]block.Index
	next int
}

// sequential reports whether e goes on where a recent write ended, and notes its end.
func (s *streams) sequential(e block.Extent) bool {
	for i, end := range s.ends {
		if end == e.Start && end != 0 {
			s.ends[i] = e.End()
			return true
		}
	}
	s.ends[s.next] = e.End()
	s.next = (s.next + 1) % len(s.ends)
	return false
}

// aheadRegions is how many regions are marked dirty ahead of a sequential writer: 4 is
// 16 MiB, some 10 ms of a fast disk, well above the time of a commit.
const aheadRegions = 4

// intendAll sees to it that a write to the regions from first to last may start. It
// reports false when q must wait for the next commit; q is then in line.
func (r *Replica) intendAll(q *Request, first, last block.Region) bool {
	for n := first; n <= last; n++ {
		if x := r.regions.at(n).rare; x != nil && x.rescuer != nil {
			x.writers.push(q)
			return false
		}
	}
	ready := true
	for n := first; n <= last; n++ {
		if !r.intended(r.regions.at(n)) {
			r.intend(n)
			ready = false
		}
	}
	if !ready {
		r.regions.waiters.push(q)
	}
	r.commit()
	return ready
}

// ahead marks the next regions dirty when q is part of a sequential stream of writes,
// so that the stream never waits for a commit.
func (r *Replica) ahead(q *Request) {
	if !r.streams.sequential(q.Extent) {
		return
	}
	last := q.Extent.LastRegion()
	for n := last + 1; n <= last+aheadRegions && int(n) < r.regions.count; n++ {
		r.intend(n)
	}
}
