package store

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// TableInfo is what a region looks like as of a generation.
type TableInfo struct {
	Region     block.Region     `json:"region"`
	Generation block.Generation `json:"generation"` // as of which it was asked for
	Table      block.Generation `json:"table"`      // whose file has the table; 0: the region was never written
	Sequence   uint32           `json:"sequence"`   // of the newest copy on disk; 0: it is in the journal only
	Journal    uint64           `json:"journal"`    // the copy on disk has what journal blocks up to this one say
	Replayed   bool             `json:"replayed"`   // the journal says more than the copy on disk
	Runs       []TableRun       `json:"runs"`
}

// TableRun is a run of blocks that are alike: neighbours in the volume and in the file.
type TableRun struct {
	First  block.Index      `json:"first"`
	Count  int              `json:"count"`
	State  string           `json:"state"` // absent, zeroed, data, punched, lost
	Holder block.Generation `json:"holder,omitempty"`
	Slot   uint16           `json:"slot"` // of the first block, in the holder's file
}

// Place is where a block is stored.
type Place struct {
	Block      block.Index      `json:"block"`
	Generation block.Generation `json:"generation"` // as of which it was asked for
	State      string           `json:"state"`      // absent and zeroed blocks read as zeros and lie nowhere
	Holder     block.Generation `json:"holder,omitempty"`
	File       string           `json:"file,omitempty"`   // below the replica's directory
	Offset     int64            `json:"offset,omitempty"` // bytes from the file's start
	Sum        block.Sum        `json:"sum"`              // that the table has
	Suspect    bool             `json:"suspect"`          // a crash may have left the sum behind the data
}

var stateNames = [...]string{"absent", "zeroed", "data", "punched"}

func (t *table) stateName(i int) string {
	if t.isLost(i) {
		return "lost"
	}
	return stateNames[t.at(i).state]
}

// chunkFile is one file of a chunk and its tables, in memory.
type chunkFile struct {
	key    fileKey
	name   string // below the replica's directory
	stat   host.Stat
	err    error // the file can't be read
	tables [block.RegionsPerChunk]*table
	bad    [block.RegionsPerChunk]error // why a table is not there
	spare  [block.RegionsPerChunk]error // damage in the copy that is not the newest
	replay [block.RegionsPerChunk]bool
}

// load reads the tables of all files of chunk n, oldest first, and adds what the journal
// says.
func (i *Inspection) load(t *task, n block.Chunk) []*chunkFile {
	c := i.r.chunk(n)
	var files []*chunkFile
	buf := host.Buffer(tablesBytes)
	for _, g := range c.gens {
		f := &chunkFile{key: fileKey{n, g}}
		f.name = i.fileName(f.key)
		f.stat, f.err = i.readFile(t, f.key, 0, buf)
		for k := range block.RegionsPerChunk {
			if region := regionOf(n, k); f.err != nil {
				f.bad[k] = f.err
			} else if int(region) < i.r.regions.count {
				i.decode(f, k, buf[tableOffset(region, 0):])
			}
		}
		files = append(files, f)
	}
	for at := range files {
		for k := range block.RegionsPerChunk {
			i.replayTable(files[:at+1], k)
		}
	}
	for at, f := range files {
		for k, tab := range f.tables {
			if tab != nil {
				if err := i.resolve(files[:at+1], k, tab); err != nil {
					f.tables[k], f.bad[k] = nil, err
				}
			}
		}
	}
	return files
}

func regionOf(n block.Chunk, k int) block.Region {
	return block.Region(int(n)*block.RegionsPerChunk + k)
}

// decode takes the k-th table of f from its two copies.
func (i *Inspection) decode(f *chunkFile, k int, copies []byte) {
	r := i.r
	key := tableKey{regionOf(f.key.chunk, k), f.key.gen}
	rg := r.regions.at(key.region)
	if c := r.chunk(f.key.chunk); rg.tableGen != 0 && c.newest(rg.tableGen) != rg.tableGen {
		if into := c.after(rg.tableGen); into != 0 { // if not, it is missing
			rg.tableGen = into // merged into it
		}
	}
	f.tables[k], f.bad[k] = r.chooseCopy(key, copies[:2*tableSize])
	tab := new(table)
	for copy := range 2 {
		tab.reset(key.region, key.gen)
		if _, _, err := decodeTable(tab, copies[copy*tableSize:(copy+1)*tableSize], r.owns); err != nil && f.bad[k] == nil {
			f.spare[k] = err
		}
	}
}

// replayTable adds to the k-th table of the last file what the journal has for it; a table
// that exists only there begins as the one before it.
func (i *Inspection) replayTable(files []*chunkFile, k int) {
	f := files[len(files)-1]
	records := i.r.journal.replay[tableKey{regionOf(f.key.chunk, k), f.key.gen}]
	if len(records) == 0 || f.bad[k] != nil {
		return
	}
	tab := f.tables[k]
	if tab == nil {
		tab = new(table)
		tab.reset(regionOf(f.key.chunk, k), f.key.gen)
		prev, err := newestTable(files[:len(files)-1], k)
		if err != nil {
			f.bad[k] = err
			return
		}
		if prev != nil {
			tab.succeed(prev, f.key.gen)
		}
		f.tables[k] = tab
	}
	f.replay[k] = replayInto(tab, records)
}

// newestTable returns the k-th table of the newest file that has one, or nil.
func newestTable(files []*chunkFile, k int) (*table, error) {
	for at := len(files) - 1; at >= 0; at-- {
		if f := files[at]; f.bad[k] != nil || f.tables[k] != nil {
			return f.tables[k], f.bad[k]
		}
	}
	return nil, nil
}

// resolve replaces holders whose file was merged into a newer one, as Replica.resolve
// does. tab is of the last of files.
func (i *Inspection) resolve(files []*chunkFile, k int, tab *table) error {
	for {
		at, into := i.r.unresolved(tab)
		if at < 0 {
			return nil
		}
		gone := tab.holders[at]
		var newer *table
		for _, f := range files[:len(files)-1] {
			if f.key.gen == into {
				newer = f.tables[k]
			}
		}
		if !tab.replace(gone, newer, i.r.obsolete(i.r.chunk(tab.region.Chunk()), tab.gen)) {
			return i.r.corrupt("store.Inspect", tab.gen, tab.region.Start()+block.Index(at), "block table",
				"the file of generation %d is missing, and with it block %d", gone, tab.region.Start()+block.Index(at))
		}
	}
}

// view returns the k-th table as of generation gen, and the file that it is of; nil when
// the region was never written.
func view(files []*chunkFile, k int, gen block.Generation) (*table, *chunkFile, error) {
	for at := len(files) - 1; at >= 0; at-- {
		f := files[at]
		if f.key.gen <= gen && (f.tables[k] != nil || f.bad[k] != nil) {
			return f.tables[k], f, f.bad[k]
		}
	}
	return nil, nil, nil
}

// find returns what region n looks like as of gen, 0 for the live generation.
func (i *Inspection) find(t *task, n block.Region, gen block.Generation) (*table, *chunkFile, error) {
	r := i.r
	if int(n) >= r.regions.count {
		return nil, nil, fault.E("store.Inspect", fault.Invalid, r.man.Volume, fmt.Errorf("region %d is beyond the volume's %d", n, r.regions.count))
	}
	if gen = r.shown(gen); !r.man.live(gen) {
		return nil, nil, fault.E("store.Inspect", fault.NotFound, r.man.Volume, fmt.Errorf("generation %d does not exist", gen))
	}
	if rg := r.regions.peek(n); rg != nil && rg.bad() != nil {
		return nil, nil, rg.bad()
	} else if rg != nil && gen < rg.lost {
		return nil, nil, r.lostRegion(n, gen)
	}
	return view(i.load(t, n.Chunk()), n.InChunk(), gen)
}

// Table calls done with what region n looks like as of generation gen, 0 for the live one.
// Errors: Invalid for a region beyond the volume, NotFound for a generation that does not
// exist, Corrupt, Media.
func (i *Inspection) Table(n block.Region, gen block.Generation, done func(TableInfo, error)) {
	i.r.spawn("table", func(t *task) {
		tab, f, err := i.find(t, n, gen)
		info := TableInfo{Region: n, Generation: i.r.shown(gen), Runs: []TableRun{}}
		if err == nil && tab != nil {
			info.Table, info.Sequence, info.Journal, info.Replayed = tab.gen, tab.seq, tab.covered, f.replay[n.InChunk()]
			info.Runs = tab.runs(int(i.blocks(n).Count))
		}
		done(info, fault.Wrap("store.Inspect", err))
	})
}

// runs lists the first count blocks of the table.
func (t *table) runs(count int) (list []TableRun) {
	for k := range count {
		e := t.at(k)
		x := TableRun{First: t.region.Start() + block.Index(k), Count: 1, State: t.stateName(k), Holder: e.holder, Slot: e.slot}
		if len(list) > 0 {
			last := &list[len(list)-1]
			stored := e.state == data || e.state == punched
			if last.State == x.State && last.Holder == x.Holder && (!stored || int(last.Slot)+last.Count == int(x.Slot)) {
				last.Count++
				continue
			}
		}
		list = append(list, x)
	}
	return list
}

// Locate calls done with where block b lies as of generation gen, 0 for the live one.
// Errors as of Table.
func (i *Inspection) Locate(b block.Index, gen block.Generation, done func(Place, error)) {
	i.r.spawn("locate", func(t *task) {
		place, err := i.locate(t, b, gen)
		done(place, fault.Wrap("store.Inspect", err))
	})
}

func (i *Inspection) locate(t *task, b block.Index, gen block.Generation) (Place, error) {
	place := Place{Block: b, Generation: i.r.shown(gen), State: stateNames[absent], Sum: block.ZeroSum}
	if b >= block.Index(i.r.man.Size/block.Size) {
		return place, fault.E("store.Inspect", fault.Invalid, i.r.man.Volume,
			fmt.Errorf("block %d is beyond the volume's %d", b, i.r.man.Size/block.Size))
	}
	tab, _, err := i.find(t, b.Region(), gen)
	if err != nil || tab == nil {
		return place, err
	}
	e := tab.at(b.InRegion())
	place.State, place.Holder = tab.stateName(b.InRegion()), e.holder
	if e.state != data {
		return place, nil
	}
	rg := i.r.regions.at(b.Region())
	place.File, place.Offset, place.Sum = i.fileName(fileKey{b.Chunk(), e.holder}), slotOffset(e.slot), e.sum
	place.Suspect = rg.suspect && e.holder >= rg.since
	return place, nil
}
