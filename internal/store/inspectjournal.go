package store

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// readJournal decides which records of the journal count, as openJournal does, and notes
// them for the tables that they belong to. After a clean close none does.
func (i *Inspection) readJournal(t *task) error {
	r := i.r
	ring, err := i.readRing(t)
	if err != nil || ring == nil {
		return err
	}
	h, intact := readHistory(ring, r.man.Volume), false
	info := JournalInfo{Clean: r.man.Journal != 0, Session: h.session, Blocks: uint64(len(ring) / block.Size)}
	if info.Clean {
		info.Tail, info.Durable, info.End = r.man.Journal, r.man.Journal-1, r.man.Journal-1
	} else {
		info.Tail = max(h.tail, r.man.JournalTail, 1)
		info.Durable = max(h.durable, info.Tail-1)
		info.End = info.Durable
		if end := h.through(info.Durable); h.blocks[end] != nil && r.opts.Boot != 0 && r.lost == nil && h.blocks[end].boot == r.opts.Boot {
			info.End, intact = end, true
			if h.hasRecords(end + 1) {
				i.damagedJournal("block %d, which is needed, is damaged", end+1)
			}
		}
	}
	i.journal = info
	i.decideSeal(intact)
	r.journal.durable, r.journal.replay = info.Durable, make(replayMap)
	if err := i.replay(t, h); err != nil {
		return err
	}
	i.noteUnread(ring)
	for _, records := range r.journal.replay {
		i.journal.Records += int64(len(records))
	}
	return nil
}

// decideSeal decides what Open would about a snapshot that was interrupted.
func (i *Inspection) decideSeal(intact bool) {
	r := i.r
	if r.man.Sealing == 0 {
		return
	}
	given := r.decideSeal(intact)
	if r.man.Generation == r.unsealed {
		r.forgetAfter(r.unsealed)
	}
	for _, key := range given {
		i.report.add(Finding{What: "stray file", File: i.fileName(key), Generation: key.gen,
			Detail: "it is of what came after a snapshot that a loss of power interrupted, and was not flushed",
			Cure:   cureNothing + ": opening the replica removes it"})
	}
}

// replay notes the records of the blocks that count.
func (i *Inspection) replay(t *task, h history) error {
	first, lost := uint64(0), 0
	for n := i.journal.Tail; n <= i.journal.End; n++ {
		b := h.blocks[n]
		if b == nil {
			if lost++; first == 0 {
				first = n
			}
			continue
		}
		i.report.JournalBlocks++
		// What is beyond the durable blocks counts as far as it is there.
		if err := i.collect(t, b, n > i.journal.Durable && n > h.proven); err != nil {
			return err
		}
	}
	if lost > 0 {
		i.damagedJournal("%d blocks that are needed are damaged, the first is %d", lost, first)
	}
	return nil
}

// readRing returns the whole journal, or nil when there is none that could be one.
func (i *Inspection) readRing(t *task) ([]byte, error) {
	r := i.r
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path("journal"), Flags: host.ReadOnly | host.Direct})
	if fault.Is(err, fault.NotFound) {
		i.damagedJournal("it is missing")
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r.journal.file, r.journal.opened = op.File, true
	if op, err = t.do(host.Op{Kind: host.OpStat, File: r.journal.file}); err != nil {
		return nil, err
	}
	size := op.Stat.Size
	if blocks := size / block.Size; blocks < 2*ringReserve || blocks > 1<<20 || size%block.Size != 0 {
		i.damagedJournal("it has %d bytes", size)
		return nil, nil
	}
	ring := host.Buffer(int(size))
	op, err = t.do(host.Op{Kind: host.OpRead, File: r.journal.file, Buf: ring})
	if err != nil {
		return nil, err
	}
	clear(ring[op.N:])
	return ring, nil
}

// collect notes the records of a block. Unproven ones count only if their data is there.
func (i *Inspection) collect(t *task, b *historyBlock, unproven bool) error {
	r := i.r
	for _, m := range b.records {
		if unproven && m.kind == mapData {
			arrived, err := i.arrived(t, m)
			if err != nil {
				return err
			}
			if !arrived {
				continue
			}
		}
		if err := r.collect(logged{m, b.number}, i.journal.End); err != nil {
			i.rejected(m, asBadBlock(err))
		}
	}
	return nil
}

// rejected reports why a record can't count: what it says is impossible, or the chunk file
// that it is about is missing, which is reported once.
func (i *Inspection) rejected(m mapping, bad *BadBlock) {
	key := fileKey{m.chunk, m.gen}
	f := Finding{Damage: true, What: bad.What, File: "journal", Detail: bad.Detail, Cure: cureRebuild}
	if bad.What != "journal" {
		if i.missing[key] {
			return
		}
		i.missing[key] = true
		f.File, f.Generation, f.Extent = i.fileName(key), bad.Generation, i.blocks(m.region())
	}
	i.report.add(f)
}

// arrived reports whether the data of a first write is in its slots.
func (i *Inspection) arrived(t *task, m mapping) (bool, error) {
	key := fileKey{m.chunk, m.gen}
	if i.r.chunk(m.chunk).newest(m.gen) != m.gen {
		return false, nil
	}
	buf := host.Buffer(int(m.count) * block.Size)
	if _, err := i.readFile(t, key, slotOffset(m.slot), buf); err != nil {
		return false, err
	}
	sums := make([]block.Sum, m.count)
	block.Checksums(sums, buf)
	return sumOfSums(sums) == m.sum, nil
}

// readFile fills buf from a chunk file, with zeros behind its end.
func (i *Inspection) readFile(t *task, key fileKey, offset int64, buf []byte) (host.Stat, error) {
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: i.r.path(i.fileName(key)), Flags: host.ReadOnly | host.Direct})
	if err != nil {
		return host.Stat{}, err
	}
	h := op.File
	defer func() { _, _ = t.do(host.Op{Kind: host.OpClose, File: h}) }()
	if op, err = t.do(host.Op{Kind: host.OpStat, File: h}); err != nil {
		return host.Stat{}, err
	}
	stat := op.Stat
	if op, err = t.do(host.Op{Kind: host.OpRead, File: h, Offset: offset, Buf: buf}); err != nil {
		return stat, err
	}
	clear(buf[op.N:])
	return stat, nil
}

// noteUnread reports damage in parts of the ring that nothing needs any more.
func (i *Inspection) noteUnread(ring []byte) {
	count, bad := i.journal.Blocks, 0
	for at := range count {
		b := ring[at*block.Size : (at+1)*block.Size]
		if allZero(b) {
			continue
		}
		if _, _, err := decodeJournalBlock(b, i.r.man.Volume, nil); err == nil {
			continue
		}
		// A damaged block in the place of one that is needed has been reported.
		needed := (at+count-i.journal.Tail%count)%count < i.journal.End+1-i.journal.Tail
		if !needed {
			bad++
		}
	}
	if bad > 0 {
		i.report.add(Finding{What: "journal", File: "journal", Cure: cureNothing + ": they are written over in time",
			Detail: fmt.Sprintf("%d blocks that nothing needs are damaged, by an interruption or by the disk", bad)})
	}
}

func (i *Inspection) damagedJournal(format string, args ...any) {
	i.report.add(Finding{Damage: true, What: "journal", File: "journal", Detail: fmt.Sprintf(format, args...), Cure: cureRebuild})
}
