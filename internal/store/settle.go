package store

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// settle makes q wait until region n's checksums are right again.
func (r *Replica) settle(n block.Region, rg *region, q *Request) {
	rg.rarely().waiters.push(q)
	r.regions.waiting[n] = rg
	if rg.rare.settling {
		return
	}
	r.spawn("settle", func(t *task) {
		err := t.settleOnce(n, rg)
		delete(r.regions.waiting, n)
		if err != nil {
			r.failFirst(&rg.rarely().waiters, err)
		} else {
			r.rerun(&rg.rarely().waiters)
		}
		rg.tidy()
	})
}

// settleRegion is settleOnce for a task that no request waits for. Those that came
// meanwhile wait for it all the same: when it failed they find out for themselves.
func (t *task) settleRegion(n block.Region, rg *region) error {
	err := t.settleOnce(n, rg)
	if err != nil && t.r.broken == nil && rg.rare != nil {
		t.r.rerun(&rg.rare.waiters)
		rg.tidy()
	}
	return err
}

// settleOnce reads what was written to a region since it became dirty and corrects
// the checksums that a crash left behind. Requests to the region go on meanwhile: a
// block's checksum is corrected only if nobody changed the entry while it was read.
func (t *task) settleOnce(n block.Region, rg *region) error {
	r := t.r
	for rg.rarely().settling && r.broken == nil {
		rg.rare.settlers = append(rg.rare.settlers, t)
		t.park()
	}
	if !rg.suspect || r.broken != nil {
		rg.tidy()
		return r.broken
	}
	rg.rare.settling = true
	defer func() {
		rg.rare.settling = false
		settlers := rg.rare.settlers
		rg.rare.settlers = nil
		for _, w := range settlers {
			w.wake()
		}
		rg.tidy()
	}()
	if r.lost == nil {
		return t.settleTables(n, rg)
	}
	// The last words of the process before were that a sync failed. What is read now may be
	// what the kernel gave up on and no later sync brings to the disk; so it is written again.
	rg.rare.rescuer = t
	for rg.writes > 0 {
		t.park()
	}
	err := t.settleTables(n, rg)
	rg.rare.rescuer = nil
	if r.broken != nil {
		r.failAll(&rg.rare.writers, r.broken)
	} else {
		r.rerun(&rg.rare.writers)
	}
	return err
}

// settleTables settles the tables of region n, one after the other.
func (t *task) settleTables(n block.Region, rg *region) error {
	r := t.r
	settled := make(map[block.Generation]bool)
	for {
		tab, err := t.nextToSettle(n, rg, settled)
		if err != nil {
			return err
		}
		if tab == nil {
			break
		}
		tab.pins++
		err = t.settleTable(tab, rg)
		tab.pins--
		if err != nil {
			return err
		}
		settled[tab.gen] = true
	}
	rg.settled()
	delete(r.regions.waiting, n)
	r.rerun(&rg.rarely().waiters) // whoever did the settling
	return nil
}

// nextToSettle returns a table of region n that may have wrong checksums and is not in
// settled, or nil. A snapshot and a write during the settling make further ones.
func (t *task) nextToSettle(n block.Region, rg *region, settled map[block.Generation]bool) (*table, error) {
	r := t.r
	for _, g := range append(slices.Clone(r.chunk(n.Chunk()).gens), r.man.Generation) {
		if g < rg.since || settled[g] {
			continue
		}
		if g == r.man.Generation { // also makes the record agree with the disk
			tab, err := t.loadView(n, g)
			if err != nil || tab.gen == g {
				return tab, err
			}
			if !settled[g] && tab != emptyTable && tab.gen >= rg.since && !settled[tab.gen] {
				return tab, nil
			}
			continue
		}
		tab, err := t.loadTable(tableKey{n, g})
		if fault.Is(err, fault.Corrupt) { // reported to who reads by it; nothing can be settled
			settled[g] = true
			continue
		}
		if tab != nil || err != nil {
			return tab, err
		}
	}
	return nil, nil
}

// settleStep is how many blocks are read at a time while settling.
const settleStep = 64

func (t *task) settleTable(tab *table, rg *region) error {
	r := t.r
	var buf []byte
	for i := 0; i < block.PerRegion; {
		before := tab.at(i)
		if before.state != data || !r.doubtful(rg, before.holder, i) {
			i++
			continue
		}
		run := 1
		for i+run < block.PerRegion && run < settleStep {
			e := tab.at(i + run)
			if e.state != data || e.holder != before.holder || int(e.slot) != int(before.slot)+run || !r.doubtful(rg, e.holder, i+run) {
				break
			}
			run++
		}
		f, err := t.file(fileKey{tab.region.Chunk(), before.holder})
		switch {
		case err != nil && r.chunk(tab.region.Chunk()).newest(before.holder) != before.holder:
			if tab.at(i) == before { // not merged: of an obsolete table, and removed
				i += run
			}
			continue
		case err != nil:
			return err
		}
		if len(buf) < run*block.Size {
			buf = host.Buffer(run * block.Size)
		}
		var was [settleStep]entry
		for k := range run {
			was[k] = tab.at(i + k)
		}
		op, err := t.do(host.Op{Kind: host.OpRead, File: f.handle, Offset: slotOffset(before.slot), Buf: buf[:run*block.Size]})
		if err == nil {
			clear(buf[op.N:])
			err = t.rescue(f, before.slot, buf[:run*block.Size])
		}
		f.refs--
		if err != nil {
			return err
		}
		for k := range run {
			sum := block.Checksum(buf[k*block.Size : (k+1)*block.Size])
			if tab.at(i+k) == was[k] && was[k].sum != sum {
				tab.sums[i+k] = sum
				r.touch(tab)
			}
		}
		i += run
	}
	return nil
}

// rescue writes again what was read from slots of f, when it may be what a failed sync
// dropped.
func (t *task) rescue(f *file, slot uint16, b []byte) error {
	r := t.r
	if r.lost == nil {
		return nil
	}
	f.unsynced = true
	_, err := t.do(host.Op{Kind: host.OpWrite, File: f.handle, Offset: slotOffset(slot), Buf: b})
	f.unsynced = true // again: a sync may have begun since
	if err != nil && !fault.Is(err, fault.NoSpace) {
		return r.fail(err) // what the blocks hold now is not known
	}
	return err
}

// settleReplay has the tables loaded that the journal of an earlier process has
// records for, so that they can be saved and the journal can go on.
func (r *Replica) settleReplay() {
	if len(r.journal.replay) == 0 || r.journal.settling {
		return
	}
	r.journal.settling = true
	r.spawn("settle journal", func(t *task) {
		defer func() { r.journal.settling = false }()
		var unread error
		for _, key := range r.journal.replay.keys() {
			if r.broken != nil {
				return
			}
			switch _, err := t.loadTable(key); {
			case err == nil:
			case fault.Is(err, fault.Media):
				unread = err // it may be read the next time
			default:
				r.regions.at(key.region).rarely().bad = err // from now on every access reports it
				delete(r.journal.replay, key)
			}
		}
		if unread == nil {
			r.saver.kick(r)
		} else if r.journal.room() <= 0 && r.broken == nil {
			r.failAll(&r.journal.waiters, unread)
		}
	})
}
