package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Inspection is a replica that was opened to be looked at. It changes nothing on disk: a
// crash stays unsettled and a merge unfinished, and what the journal holds is added to the
// tables in memory only, so that it shows what [Open] would make of the files. It believes
// nothing: what contradicts something else is reported, and the rest is shown.
//
// While it is open the replica can't be opened otherwise. Like a Replica it belongs to the
// goroutine that drives its disk, and it takes one call at a time. It holds in memory what
// an open Replica does, and about 230 KiB for each file of the chunk that it looks at.
type Inspection struct {
	r       *Replica           // what Open would know; no task serves it
	merged  map[fileKey]string // chunk files that are complete under another name
	missing map[fileKey]bool   // chunk files that the journal has records for, and that are not there
	report  CheckReport        // what was found while opening
	journal JournalInfo
}

// JournalInfo is what the journal says.
type JournalInfo struct {
	Clean   bool   `json:"clean"`   // the replica was closed, so that nothing is to be replayed
	Session uint32 `json:"session"` // how often the replica was opened
	Blocks  uint64 `json:"blocks"`  // length of the ring
	Tail    uint64 `json:"tail"`    // blocks from this one on are needed
	Durable uint64 `json:"durable"` // blocks up to this one survive the loss of power
	End     uint64 `json:"end"`     // blocks up to this one count
	Records int64  `json:"records"` // first writes and zeroings in them that no table may have yet
}

// Inspect opens the replica in dir to be looked at. Errors: NotFound when there is no
// replica, Busy when somebody has it open, Corrupt when its manifest is damaged,
// Unsupported when a newer release made it, Media. Other damage is for Check to report.
func Inspect(d host.Disk, dir string, o Options, done func(*Inspection, error)) {
	i := &Inspection{r: newReplica(d, dir, o), merged: make(map[fileKey]string), missing: make(map[fileKey]bool)}
	i.r.spawn("inspect", func(t *task) {
		if err := i.open(t); err != nil {
			t.letGo()
			done(nil, fault.Wrap("store.Inspect", err))
			return
		}
		done(i, nil)
	})
}

// Close gives the replica back. No other call is under way.
func (i *Inspection) Close(done func()) {
	i.r.spawn("close", func(t *task) {
		t.letGo()
		done()
	})
}

// Manifest returns what the replica is. The caller may keep it.
func (i *Inspection) Manifest() Manifest { return i.r.man.clone() }

// Journal returns what the journal says.
func (i *Inspection) Journal() JournalInfo { return i.journal }

// RegionRange is a run of regions of which the region table says the same.
type RegionRange struct {
	First block.Region     `json:"first"`
	Count int              `json:"count"`
	Epoch block.Epoch      `json:"epoch"`           // of the last write
	Dirty block.Generation `json:"dirty,omitempty"` // the generation since which it is dirty; 0 clean
	Table block.Generation `json:"table,omitempty"` // whose file has the newest table; 0 none has
	Bad   bool             `json:"bad,omitempty"`   // the record is damaged
}

// Regions lists what the region table says of the regions that were ever written.
func (i *Inspection) Regions() (list []RegionRange) {
	i.r.regions.each(func(n block.Region, rg *region) bool {
		if rg.record == (record{}) && rg.bad() == nil {
			return true
		}
		x := RegionRange{First: n, Count: 1, Epoch: rg.epoch, Dirty: rg.since, Table: rg.tableGen, Bad: rg.bad() != nil}
		if len(list) > 0 {
			last := &list[len(list)-1]
			x.First, x.Count = last.First, last.Count
			if int(last.First)+last.Count == int(n) && x == *last {
				last.Count++
				return true
			}
			x.First, x.Count = n, 1
		}
		list = append(list, x)
		return true
	})
	return list
}

// ownNames are what a replica's directory may hold.
var ownNames = []string{"replica.json", "replica.json.new", "lock", "regions", "journal", "chunks", lostName}

// Recognize says what a directory is by the names in it: whole means that it is a replica,
// remains that it may be what an interrupted Create, Clone or Delete left, for it holds
// nothing that is not a replica's.
func Recognize(names []string) (whole, remains bool) {
	whole = slices.Contains(names, "replica.json")
	remains = !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(ownNames, name) })
	return whole, remains
}

// UnfinishedSuffix is what Create, Clone and Delete add to the name of a directory that is
// not a replica yet, or no longer. They remove what they find under such a name.
const UnfinishedSuffix = newSuffix

// open learns what Open would learn.
func (i *Inspection) open(t *task) error {
	r := i.r
	op, err := t.do(host.Op{Kind: host.OpList, Path: r.dir})
	if err != nil {
		return err
	}
	var names []string
	for _, e := range op.Entries {
		names = append(names, e.Name)
	}
	if whole, _ := Recognize(names); !whole {
		return fault.Errorf("store.Inspect", fault.NotFound, "%s is not a replica: there is no replica.json in it", r.dir)
	}
	if err := i.lock(t); err != nil {
		return err
	}
	if err := t.readManifest(); fault.Is(err, fault.Corrupt) {
		return fault.WithCure(err, cureRebuild)
	} else if err != nil {
		return err
	}
	if err := t.readLoss(); err != nil {
		return err
	}
	for _, name := range names {
		i.checkName(name)
	}
	if err := i.readRegions(t); err != nil {
		return err
	}
	if err := i.listChunks(t); err != nil {
		return err
	}
	return i.readJournal(t)
}

func (i *Inspection) lock(t *task) error {
	r := i.r
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path("lock"), Flags: host.ReadOnly | host.Lock})
	switch {
	case err == nil:
		r.lock, r.locked = op.File, true
		return nil
	case fault.Is(err, fault.Busy):
		return fault.WithCure(fault.Errorf("store.Inspect", fault.Busy, "%s is open in another process", r.dir), "stop it first")
	case fault.Is(err, fault.NotFound):
		i.report.add(Finding{Damage: true, What: "lock", File: "lock", Detail: "it is missing, so the replica can't be opened",
			Cure: "make an empty file of that name"})
		return nil
	}
	return err
}

func (i *Inspection) checkName(name string) {
	switch {
	case name == "replica.json.new":
		i.report.add(Finding{What: "stray file", File: name, Detail: "a change of replica.json was interrupted",
			Cure: cureNothing + ": the next change writes over it"})
	case name == lostName:
		i.report.add(Finding{What: "loss", File: name, Cure: "bring the replica up to date from another copy",
			Detail: "the replica failed once, and may lack what was written and not flushed then"})
	case !slices.Contains(ownNames, name):
		i.report.add(Finding{What: "stray file", File: name, Detail: "it is no part of a replica", Cure: cureStray})
	}
}

// readRegions reads the region table. A short one is damage: what is cut off would pass
// for regions that were never written.
func (i *Inspection) readRegions(t *task) error {
	r := i.r
	rt := &r.regions
	rt.init(block.Regions(r.man.Size))
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path("regions"), Flags: host.ReadOnly | host.Direct})
	if fault.Is(err, fault.NotFound) {
		i.report.add(Finding{Damage: true, What: "region table", File: "regions", Detail: "it is missing", Cure: cureRebuild})
		return nil
	}
	if err != nil {
		return err
	}
	rt.file, rt.opened = op.File, true
	if op, err = t.do(host.Op{Kind: host.OpStat, File: rt.file}); err != nil {
		return err
	}
	if want := int64(len(rt.blocks)) * block.Size; op.Stat.Size < want {
		i.report.add(Finding{Damage: true, What: "region table", File: "regions",
			Detail: fmt.Sprintf("it has %d bytes, the volume needs %d", op.Stat.Size, want), Cure: cureRebuild})
	}
	const step = 1 << 20
	buf := host.Buffer(step)
	for off := 0; off < len(rt.blocks)*block.Size; off += step {
		op, err := t.do(host.Op{Kind: host.OpRead, File: rt.file, Offset: int64(off), Buf: buf})
		if err != nil {
			return err
		}
		clear(buf[op.N:])
		for k := 0; k < step && off+k < len(rt.blocks)*block.Size; k += block.Size {
			if b := buf[k : k+block.Size]; !allZero(b) {
				r.decodeRecords((off+k)/block.Size, b)
			}
		}
	}
	rt.each(func(n block.Region, rg *region) bool {
		if rg.record != (record{}) || rg.bad() != nil {
			i.report.Regions++
		}
		if rg.bad() != nil {
			i.report.add(Finding{Damage: true, What: "region record", File: "regions", Extent: i.blocks(n),
				Detail: detail(rg.bad()), Cure: cureRegion})
		}
		return true
	})
	return nil
}

// blocks returns the blocks of region n that are in the volume.
func (i *Inspection) blocks(n block.Region) block.Extent {
	return block.Extent{Start: n.Start(), Count: block.PerRegion}.Clip(block.Extent{Count: uint64(i.r.man.Size / block.Size)})
}

// listChunks learns from their names which chunk files there are, as Open does.
func (i *Inspection) listChunks(t *task) error {
	r := i.r
	op, err := t.do(host.Op{Kind: host.OpList, Path: r.path("chunks")})
	if fault.Is(err, fault.NotFound) {
		i.report.add(Finding{Damage: true, What: "chunk files", File: "chunks", Detail: "the directory is missing", Cure: cureRebuild})
		return nil
	}
	if err != nil {
		return err
	}
	slices.SortFunc(op.Entries, func(a, b host.Entry) int { return strings.Compare(a.Name, b.Name) })
	gone := make(map[fileKey]bool)
	for _, e := range op.Entries {
		key, ok := parseFileKey(e.Name)
		into, from, merged := parseMerged(e.Name)
		file := "chunks/" + e.Name
		switch {
		case merged:
			i.merged[into] = file
			gone[fileKey{into.chunk, from}] = true
			i.report.add(Finding{What: "stray file", File: file, Detail: "a merge of chunk files was interrupted after it was complete",
				Cure: cureNothing + ": opening the replica finishes it"})
			r.chunk(into.chunk).add(into.gen)
		case strings.HasSuffix(e.Name, mergeSuffix):
			i.report.add(Finding{What: "stray file", File: file, Detail: "a merge of chunk files was interrupted",
				Cure: cureNothing + ": opening the replica removes it"})
		case !ok || e.Dir:
			i.report.add(Finding{What: "stray file", File: file, Detail: "it is no chunk file", Cure: cureStray})
		case key.gen > r.man.Generation || int(key.chunk) >= block.Chunks(r.man.Size):
			i.report.add(Finding{Damage: true, What: "chunk file", File: file, Generation: key.gen,
				Detail: fmt.Sprintf("it is beyond generation %d or size %d of replica.json, and the replica can't be opened", r.man.Generation, r.man.Size),
				Cure:   cureRebuild})
		default:
			r.chunk(key.chunk).add(key.gen)
		}
	}
	for key := range gone {
		r.chunk(key.chunk).remove(key.gen)
	}
	return nil
}

// fileName returns the name of a chunk file below the replica's directory.
func (i *Inspection) fileName(key fileKey) string {
	if name, ok := i.merged[key]; ok {
		return name
	}
	return "chunks/" + key.name()
}
