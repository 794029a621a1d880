package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Snapshot makes the live generation read-only and readable for ever as gen, and begins
// the next one. gen is the live generation's number or a higher one, when numbers between
// them mean nothing: they are skipped. It waits for the writes in flight, holds new
// ones, flushes, and raises one number: it costs the same whatever the volume's size.
// A generation that is a snapshot already is a success.
func (r *Replica) Snapshot(gen block.Generation, done func(error)) {
	r.spawn("snapshot", func(t *task) { done(fault.Wrap("store.Snapshot", t.snapshot(gen))) })
}

func (t *task) snapshot(gen block.Generation) error {
	r := t.r
	if err := t.awaitSeal(); err != nil {
		return err
	}
	if slices.Contains(r.man.Snapshots, gen) {
		return nil
	}
	if gen < r.man.Generation || r.frozen {
		return r.overBy(gen)
	}
	live := r.man.Generation
	r.frozen = true
	defer func() {
		r.frozen = false
		r.rerun(&r.thaw)
	}()
	t.calm()
	if err := t.flush(); err != nil {
		return err
	}
	err := t.change(func(m *Manifest) {
		m.Snapshots = append(m.Snapshots, gen)
		m.Generation = gen + 1
		m.Sealing = 0
	})
	if err != nil {
		return err
	}
	r.trimReserved(live)
	return nil
}

// thawing counts the writes that wait for the snapshot.
func (r *Replica) thawing() int {
	n := 0
	for q := r.thaw.head; q != nil; q = q.next {
		n++
	}
	return n
}

// trimReserved gives back the space that was reserved in files which will not grow any
// more.
func (r *Replica) trimReserved(gen block.Generation) {
	type tail struct {
		key            fileKey
		next, reserved int
	}
	var tails []tail
	for n, c := range r.chunks {
		if c.ready == gen && c.reserved > c.next {
			tails = append(tails, tail{fileKey{n, gen}, c.next, c.reserved})
		}
	}
	if len(tails) == 0 {
		return
	}
	slices.SortFunc(tails, func(a, b tail) int { return compareKeys(a.key, b.key) })
	r.spawn("trim", func(t *task) {
		for _, x := range tails {
			f, err := t.file(x.key)
			if err != nil {
				return // the space stays reserved until the snapshot is deleted
			}
			_, _ = t.do(host.Op{Kind: host.OpPunch, File: f.handle, Offset: slotOffset(0) + int64(x.next)*block.Size,
				Length: int64(x.reserved-x.next) * block.Size})
			f.refs--
		}
	})
}

// DeleteSnapshot makes generation gen unreadable and starts to free what no other
// generation sees. done is called when the deletion is durable; Reclaimed tells when
// the space is back. A generation that does not exist is a success.
func (r *Replica) DeleteSnapshot(gen block.Generation, done func(error)) {
	r.spawn("delete snapshot", func(t *task) { done(fault.Wrap("store.DeleteSnapshot", t.deleteSnapshot(gen))) })
}

func (t *task) deleteSnapshot(gen block.Generation) error {
	r := t.r
	if !slices.Contains(r.man.Snapshots, gen) {
		if gen == r.man.Generation {
			return fault.E("store.DeleteSnapshot", fault.Precondition, r.man.Volume, fmt.Errorf("generation %d is the live one", gen))
		}
		return nil
	}
	err := t.change(func(m *Manifest) {
		m.Snapshots = slices.DeleteFunc(m.Snapshots, func(g block.Generation) bool { return g == gen })
		if !slices.Contains(m.Reclaim, gen) {
			m.Reclaim = append(m.Reclaim, gen)
			slices.Sort(m.Reclaim)
		}
	})
	if err != nil {
		return err
	}
	r.startReclaim()
	return nil
}

// Promise makes durable that epochs below epoch are refused from now on. It stamps
// every dirty region with epoch, so that a replica which misses the writes that
// follow, or that were in flight, finds them. A lower epoch than promised fails with
// fault.Fenced; an equal one is a success.
func (r *Replica) Promise(epoch block.Epoch, done func(error)) {
	r.spawn("promise", func(t *task) { done(fault.Wrap("store.Promise", t.promise(epoch))) })
}

func (t *task) promise(epoch block.Epoch) error {
	r := t.r
	if epoch < r.man.Promised {
		return fault.E("store.Promise", fault.Fenced, r.man.Volume, fmt.Errorf("epoch %d was promised, %d is over", r.man.Promised, epoch))
	}
	if epoch > r.man.Promised {
		if err := t.change(func(m *Manifest) { m.Promised = max(m.Promised, epoch) }); err != nil {
			return err
		}
	}
	if epoch < r.man.Promised { // while this waited for its turn
		return fault.E("store.Promise", fault.Fenced, r.man.Volume, fmt.Errorf("epoch %d was promised, %d is over", r.man.Promised, epoch))
	}
	r.epoch = epoch
	for _, n := range r.regions.dirty {
		if rg := r.regions.at(n); rg.since != 0 && rg.epoch != epoch {
			rg.epoch = epoch
			r.regions.put(n)
		}
	}
	return t.commitAndWait()
}

// Grow makes the volume size bytes large; the new part reads as zeros. Shrinking fails
// with fault.Invalid; the size it has is a success.
func (r *Replica) Grow(size int64, done func(error)) {
	r.spawn("grow volume", func(t *task) { done(fault.Wrap("store.Grow", t.grow(size))) })
}

func (t *task) grow(size int64) error {
	r := t.r
	t.lock(&r.growLock)
	defer t.unlock(&r.growLock)
	if size < r.man.Size || !block.ValidSize(size) {
		return fault.E("store.Grow", fault.Invalid, r.man.Volume, fmt.Errorf("can't change the size from %d to %d bytes: volumes only grow, by multiples of %d", r.man.Size, size, block.Size))
	}
	if size == r.man.Size {
		return nil
	}
	blocks := (block.Regions(size) + perTabBlock - 1) / perTabBlock
	if _, err := t.do(host.Op{Kind: host.OpTruncate, File: r.regions.file, Length: int64(blocks) * block.Size}); err != nil {
		return err
	}
	if _, err := t.do(host.Op{Kind: host.OpSync, File: r.regions.file}); err != nil {
		return r.fail(err)
	}
	if err := t.change(func(m *Manifest) { m.Size = size }); err != nil {
		return err
	}
	r.regions.count = block.Regions(size)
	for len(r.regions.blocks) < blocks {
		r.regions.blocks = append(r.regions.blocks, nil)
	}
	return nil
}

// RegionInfo is what the region table says of a region.
type RegionInfo struct {
	Region block.Region
	Epoch  block.Epoch // of the last write; 0 never written here
	Dirty  bool        // written since it was last known to be the same on every replica
}

// Regions lists the regions that were ever written, in order, from region from on, at
// most limit. One whose record is damaged counts as dirty. Of a clone they are also those
// that may have something from its origin: they have no record here, and epoch 0.
func (r *Replica) Regions(from block.Region, limit int) (list []RegionInfo) {
	if r.inherits() {
		return r.regionsOfClone(from, limit)
	}
	r.regions.each(func(n block.Region, rg *region) bool {
		if n >= from && rg.recorded() {
			list = append(list, rg.info(n))
		}
		return len(list) < limit
	})
	return list
}

// Settled reports whether every checksum is that of what was written. After a crash those
// of regions that were being written are taken from what is found on the disk, a region at
// a time and when it is first used: damage done before then has no witness in this replica.
func (r *Replica) Settled() bool {
	settled := true
	r.regions.each(func(_ block.Region, rg *region) bool {
		settled = !rg.suspect
		return settled
	})
	return settled
}

func (r *Replica) regionsOfClone(from block.Region, limit int) (list []RegionInfo) {
	for n := from; int(n) < r.regions.count && len(list) < limit; n++ {
		switch rg, c := r.regions.peek(n), r.chunks[n.Chunk()]; {
		case rg != nil && rg.recorded():
			list = append(list, rg.info(n))
		case c != nil && len(c.gens) > 0:
			list = append(list, RegionInfo{Region: n})
		}
	}
	return list
}

// recorded reports whether there is something to say of the region.
func (rg *region) recorded() bool { return rg.record != (record{}) || rg.damaged() }

func (rg *region) info(n block.Region) RegionInfo {
	return RegionInfo{n, rg.epoch, rg.since != 0 || rg.damaged()}
}

// Clone makes a new replica in the directory dir, on the same disk, whose live
// generation begins as what generation gen, a snapshot, shows. It shares the chunk
// files by hard links; afterwards each side may be changed and deleted on its own. done
// is called when it is durable; it is not open then.
func (r *Replica) Clone(gen block.Generation, dir string, spec Spec, done func(error)) {
	r.spawn("clone", func(t *task) { done(fault.Wrap("store.Clone", t.cloneTo(gen, dir, spec))) })
}

func (t *task) cloneTo(gen block.Generation, dir string, spec Spec) error {
	r := t.r
	if !slices.Contains(r.man.Snapshots, gen) {
		return fault.E("store.Clone", fault.NotFound, r.man.Volume, fmt.Errorf("generation %d is not a snapshot", gen))
	}
	if spec.Size == 0 {
		spec.Size = r.man.Size
	}
	t.lock(&r.reclaim.lock) // no file is merged or removed meanwhile
	defer t.unlock(&r.reclaim.lock)
	if !slices.Contains(r.man.Snapshots, gen) {
		return r.deleted(gen)
	}
	if err := r.whole(gen); err != nil {
		return err
	}
	if err := r.fits(gen, spec.Size); err != nil {
		return err
	}
	if err := t.saveUpTo(gen); err != nil {
		return err
	}
	c := newReplica(r.disk, dir+newSuffix, r.opts)
	c.man = Manifest{Version: formatVersion, Volume: spec.Volume, Replica: spec.Replica, Size: spec.Size,
		Generation: gen + 1, Snapshots: []block.Generation{}, Reclaim: []block.Generation{}, Journal: 1,
		Origins: append([]block.VolumeID{r.man.Volume}, r.man.Origins...), Base: gen}
	if err := c.man.validate(); err != nil {
		return fault.E("store.Clone", fault.Invalid, spec.Volume, err)
	}
	return t.cloneInto(c, dir, gen)
}

// fits returns an error if generation gen may have data beyond size. The origin may be
// larger than a clone of what it was before it grew.
func (r *Replica) fits(gen block.Generation, size int64) error {
	for n, c := range r.chunks {
		if int(n) >= block.Chunks(size) && len(c.gens) > 0 && c.gens[0] <= gen {
			return fault.E("store.Clone", fault.Invalid, r.man.Volume, fmt.Errorf("a clone of %d bytes is smaller than what generation %d has", size, gen))
		}
	}
	return nil
}

// whole returns an error if there is a region whose view as of gen can't be believed: a
// clone would not know.
func (r *Replica) whole(gen block.Generation) (err error) {
	r.regions.each(func(n block.Region, rg *region) bool {
		if err = rg.bad(); err == nil && gen < rg.lost {
			err = r.lostRegion(n, gen)
		}
		return err == nil
	})
	return err
}

// saveUpTo makes sure that what generation gen sees is in files, not only in memory
// and in this replica's journal.
func (t *task) saveUpTo(gen block.Generation) error {
	r := t.r
	for _, key := range r.journal.replay.keys() {
		if _, err := t.loadTable(key); err != nil {
			return err
		}
	}
	for _, n := range slices.Clone(r.regions.dirty) {
		if rg := r.regions.at(n); rg.suspect && rg.since <= gen {
			if err := t.settleRegion(n, rg); err != nil {
				return err
			}
		}
	}
	for {
		tables := r.dirtyUpTo(gen)
		if len(tables) == 0 { // those that are being saved don't count as dirty, and are not on the disk yet
			t.lock(&r.saver.lock)
			t.unlock(&r.saver.lock)
			if tables = r.dirtyUpTo(gen); len(tables) == 0 {
				break
			}
		}
		if err := t.save(tables, nil); err != nil {
			return err
		}
	}
	if r.lost != nil { // what settling wrote again
		return t.flush()
	}
	return r.broken
}

// dirtyUpTo returns some of the tables of generations up to gen that differ from their copies.
func (r *Replica) dirtyUpTo(gen block.Generation) (tables []*table) {
	for _, tab := range r.tables.list {
		if tab.dirty && tab.gen <= gen && len(tables) < saveBatch {
			tables = append(tables, tab)
		}
	}
	return tables
}

func (t *task) cloneInto(c *Replica, dir string, gen block.Generation) error {
	r := t.r
	if _, err := t.do(host.Op{Kind: host.OpList, Path: dir}); err == nil {
		return fault.E("store.Clone", fault.Exists, c.man.Volume, fmt.Errorf("%s exists", dir))
	}
	// The task's disk is the clone's disk: lend it to build the clone's directory.
	t.r = c
	err := t.removeTree(c.dir)
	if err == nil {
		err = t.createFiles()
	}
	t.r = r
	if err != nil {
		return err
	}
	var links []host.Op
	for n, ch := range r.chunks {
		for _, g := range ch.gens {
			if g <= gen {
				key := fileKey{n, g}
				links = append(links, host.Op{Kind: host.OpLink, Path: r.chunkPath(key), To: c.chunkPath(key)})
			}
		}
	}
	slices.SortFunc(links, func(a, b host.Op) int { return strings.Compare(a.Path, b.Path) })
	for len(links) > 0 {
		n := min(len(links), 256)
		if err := t.doAll(links[:n]); err != nil {
			return err
		}
		links = links[n:]
	}
	if err := t.syncDir(c.path("chunks")); err != nil {
		return err
	}
	if _, err := t.do(host.Op{Kind: host.OpRename, Path: c.dir, To: dir}); err != nil {
		return err
	}
	return t.syncDir(parent(dir))
}
