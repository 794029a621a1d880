package store

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// openJournal reads the whole journal, decides which records count, and starts a new
// session behind them. clean is the number that the manifest names after a clean
// close, else 0.
func (t *task) openJournal(clean uint64) error {
	r := t.r
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path("journal"), Flags: host.Direct | fence})
	if err != nil {
		return err
	}
	file := op.File
	r.journal.file, r.journal.opened = file, true
	op, err = t.do(host.Op{Kind: host.OpStat, File: file})
	if err != nil {
		return err
	}
	blocks := op.Stat.Size / block.Size
	if blocks < 2*ringReserve || blocks > 1<<20 || op.Stat.Size%block.Size != 0 {
		return r.corruptJournal("it has %d bytes", op.Stat.Size)
	}
	buf := host.Buffer(int(op.Stat.Size))
	op, err = t.do(host.Op{Kind: host.OpRead, File: file, Buf: buf})
	if err != nil {
		return err
	}
	clear(buf[op.N:])

	h := readHistory(buf, r.man.Volume)
	r.session = h.session + 1
	j := &r.journal
	j.replay = make(replayMap)
	if clean != 0 { // tables have it all
		j.init(r, file, uint64(blocks), clean, clean-1, clean)
		return nil
	}
	tail := max(h.tail, r.man.JournalTail, 1)
	durable := max(h.durable, tail-1)
	for n := tail; n <= durable; n++ {
		if h.blocks[n] == nil {
			return r.corruptJournal("block %d is damaged", n)
		}
	}
	end := h.through(durable)
	same := r.opts.Boot != 0 && r.lost == nil && h.blocks[end] != nil && h.blocks[end].boot == r.opts.Boot
	r.forgot = !same && len(h.blocks) > 0 // of a replica that was never written to nothing is missing
	if err := t.resolveSeal(same); err != nil {
		return err
	}
	switch {
	case !same:
		end = durable
	case h.hasRecords(end + 1):
		return r.corruptJournal("block %d is damaged", end+1)
	}
	next := h.rewind(end+1, tail)
	j.init(r, file, uint64(blocks), next, durable, tail)
	for j.last >= tail && len(h.blocks[j.last].records) == 0 {
		j.last--
	}
	var void []mapping
	found := false
	for n := tail; n < next; n++ {
		for _, m := range h.blocks[n].records {
			if same && n > h.proven && m.kind == mapData {
				arrived, err := t.arrivedData(m)
				if err != nil {
					return err
				}
				if !arrived {
					m.kind = mapCancel
					void = append(void, m)
					continue
				}
				found = true
			}
			if err := r.collect(logged{m, n}, end); err != nil {
				return err
			}
		}
	}
	r.checkReplay()
	if err := t.cancelVoid(void); err != nil || !found || len(void) > 0 { // what cancels proves the rest
		return err
	}
	return t.proveFound()
}

// proveFound journals that the data of what recovery found has arrived, before any of it is
// written again in place: the next process would compare what is there then with the sums
// of the first writes, and take them for writes that never arrived.
func (t *task) proveFound() error {
	r := t.r
	j := &r.journal
	if j.room() <= -ringReserve/2 {
		return fault.E("store.Open", fault.Internal, r.man.Volume, fmt.Errorf("the journal has no room for a proof"))
	}
	for want := j.next; j.written < want && r.broken == nil; {
		j.marking = t
		r.writeJournal()
		t.park()
	}
	return r.broken
}

// checkReplay reports regions that the journal knows first writes of, and whose records
// do not.
func (r *Replica) checkReplay() {
	for _, key := range r.journal.replay.keys() {
		rg := r.regions.at(key.region)
		if rg.bad() == nil && rg.since == 0 && rg.tableGen == 0 {
			rg.damage(r.corrupt("store.Open", key.gen, key.region.Start(), "region record", "it says never written, but the journal has first writes"))
		}
		if rg.bad() != nil {
			delete(r.journal.replay, key)
		}
	}
}

func (r *Replica) corruptJournal(format string, args ...any) error {
	return r.corrupt("store.Open", r.man.Generation, 0, "journal", format, args...)
}

// history is what the journal's ring holds.
type history struct {
	session uint32 // the latest
	boot    uint64 // in which its last block was written
	last    uint64 // the last block; 0 none
	tail    uint64
	durable uint64
	proven  uint64
	blocks  map[uint64]*historyBlock // those that count, by number
}

type historyBlock struct {
	journalHead
	records []mapping
}

// readHistory decodes the ring. A session begins where recovery decided that the one
// before ends; so of an older session only what is before the next one's start counts.
func readHistory(ring []byte, volume block.VolumeID) history {
	count := len(ring) / block.Size
	all := make([]*historyBlock, 0, count)
	starts := make(map[uint32]uint64)
	for i := range count {
		h, records, err := decodeJournalBlock(ring[i*block.Size:], volume, nil)
		if err != nil || h.number == 0 || h.number%uint64(count) != uint64(i) {
			continue
		}
		all = append(all, &historyBlock{h, records})
		starts[h.session] = h.start
	}
	h := history{blocks: make(map[uint64]*historyBlock)}
	for _, b := range all {
		counts := true
		for session, start := range starts {
			if session > b.session && start <= b.number {
				counts = false
			}
		}
		if !counts {
			continue
		}
		h.blocks[b.number] = b
		h.session = max(h.session, b.session)
		h.tail, h.durable, h.proven = max(h.tail, b.tail), max(h.durable, b.durable), max(h.proven, b.proven)
		if b.number > h.last {
			h.last, h.boot = b.number, b.boot
		}
	}
	return h
}

// through returns the last block of those that follow block number without a gap.
func (h *history) through(number uint64) uint64 {
	for h.blocks[number+1] != nil {
		number++
	}
	return number
}

// hasRecords reports whether a block from number on has records. Behind a gap there
// should be none: a process writes one block after the other, and writes at first over
// blocks that have none (see rewind), so that its death can tear no other.
func (h *history) hasRecords(number uint64) bool {
	for n, b := range h.blocks {
		if n >= number && len(b.records) > 0 {
			return true
		}
	}
	return false
}

// rewind returns the number of the block to go on with, at most next. Blocks without
// records at the end, proofs and markers, are written over if they only repeat what the
// one before says: else process after process that dies at once would fill the ring.
func (h *history) rewind(next, tail uint64) uint64 {
	for next > tail+1 {
		b, before := h.blocks[next-1], h.blocks[next-2]
		if b == nil || before == nil || len(b.records) > 0 || before.proven < b.proven || before.durable < b.durable || before.tail < b.tail {
			break
		}
		next--
	}
	return next
}

// arrivedData reports whether the data of a first write is in its slots.
func (t *task) arrivedData(m mapping) (bool, error) {
	r := t.r
	key := fileKey{m.chunk, m.gen}
	if r.chunk(m.chunk).newest(m.gen) != m.gen {
		return false, nil
	}
	f, err := t.file(key)
	if err != nil {
		return false, err
	}
	defer func() { f.refs-- }()
	buf := host.Buffer(int(m.count) * block.Size)
	op, err := t.do(host.Op{Kind: host.OpRead, File: f.handle, Offset: slotOffset(m.slot), Buf: buf})
	if err != nil {
		return false, err
	}
	clear(buf[op.N:])
	sums := make([]block.Sum, m.count)
	block.Checksums(sums, buf)
	return sumOfSums(sums) == m.sum, nil
}

// collect notes a record for the table it belongs to.
func (r *Replica) collect(m logged, end uint64) error {
	if m.gen > r.man.Generation && r.man.Sealing != 0 || r.man.voided(m.gen, m.number) {
		return nil
	}
	if int(m.chunk) >= block.Chunks(r.man.Size) || int(m.region()) >= r.regions.count || m.gen > r.man.Generation {
		return r.corruptJournal("block %d has a record of chunk %d, generation %d", m.number, m.chunk, m.gen)
	}
	key := tableKey{m.region(), m.gen}
	list := r.journal.replay[key]
	if m.kind == mapCancel {
		for i := len(list) - 1; i >= 0; i-- { // the last one: before it the same blocks may have come and gone in the same slots
			c := &list[i]
			if c.kind == mapData && c.first == m.first && c.count == m.count && c.slot == m.slot {
				r.journal.replay[key] = append(list[:i:i], list[i+1:]...)
				if len(r.journal.replay[key]) == 0 {
					delete(r.journal.replay, key)
				}
				break
			}
		}
		return nil
	}
	if rg := r.regions.peek(m.region()); rg != nil && m.gen < rg.lost {
		return nil // nobody reads by it
	}
	if c := r.chunk(m.chunk); c.newest(m.gen) != m.gen {
		if m.number <= r.journal.durable && r.man.live(m.gen) {
			return r.corrupt("store.Open", m.gen, m.region().Start(), "chunk file", "it is missing, and the journal has records for it")
		}
		return nil // deleted or merged since, or never durable
	}
	r.journal.replay[key] = append(list, m)
	return nil
}

// cancelVoid journals that first writes whose data never arrived do not count, before
// anything else is journalled: a later proof must not cover them.
func (t *task) cancelVoid(void []mapping) error {
	r := t.r
	j := &r.journal
	for len(void) > 0 {
		n := min(len(void), mappingsMax)
		if n > 0 && j.room() <= -ringReserve/2 {
			return fault.E("store.Open", fault.Internal, r.man.Volume, fmt.Errorf("the journal has no room to cancel %d records", len(void)))
		}
		j.filling.records = append(j.filling.records, void[:n]...)
		void = void[n:]
		want := j.next
		for j.written < want && r.broken == nil {
			j.marking = t
			r.writeJournal()
			t.park()
		}
		if r.broken != nil {
			return r.broken
		}
	}
	return nil
}
