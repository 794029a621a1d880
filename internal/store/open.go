package store

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Spec is what a new replica is made from.
type Spec struct {
	Volume  block.VolumeID
	Replica block.ReplicaID
	Size    int64 // bytes, see block.ValidSize
}

// Create makes an empty replica in the directory dir, which must not exist, and calls
// done when it is durable. It is not open then. The parent of dir must exist.
func Create(d host.Disk, dir string, spec Spec, o Options, done func(error)) {
	r := newReplica(d, dir, o)
	r.man = Manifest{Version: formatVersion, Volume: spec.Volume, Replica: spec.Replica,
		Size: spec.Size, Generation: 1, Snapshots: []block.Generation{}, Reclaim: []block.Generation{}, Journal: 1}
	if err := r.man.validate(); err != nil {
		done(fault.E("store.Create", fault.Invalid, spec.Volume, err))
		return
	}
	r.spawn("create", func(t *task) { done(fault.Wrap("store.Create", t.create())) })
}

// create makes the directory under another name first, so that a replica is there
// whole or not at all.
func (t *task) create() error {
	r := t.r
	if _, err := t.do(host.Op{Kind: host.OpList, Path: r.dir}); err == nil {
		return fault.E("store.Create", fault.Exists, r.man.Volume, fmt.Errorf("%s exists", r.dir))
	}
	if err := r.admit(int64(r.opts.JournalBlocks) * block.Size); err != nil {
		return err
	}
	final := r.dir
	r.dir += newSuffix
	if err := t.removeTree(r.dir); err != nil {
		return err
	}
	if err := t.createFiles(); err != nil {
		return err
	}
	if _, err := t.do(host.Op{Kind: host.OpRename, Path: r.dir, To: final}); err != nil {
		return err
	}
	r.dir = final
	return t.syncDir(parent(final))
}

// newSuffix marks a directory that is not a replica yet, or no longer.
const newSuffix = ".tmp"

func (t *task) createFiles() error {
	r := t.r
	for _, d := range []string{r.dir, r.path("chunks")} {
		if _, err := t.do(host.Op{Kind: host.OpMkdir, Path: d}); err != nil {
			return err
		}
	}
	tableBlocks := (block.Regions(r.man.Size) + perTabBlock - 1) / perTabBlock
	for _, f := range []struct {
		name string
		size int64
	}{
		{"lock", 0},
		{"regions", int64(tableBlocks) * block.Size},
		{"journal", int64(r.opts.JournalBlocks) * block.Size},
	} {
		op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path(f.name), Flags: host.Create | host.Exclusive | host.Direct})
		if err != nil {
			return err
		}
		h := op.File
		if f.size > 0 {
			if _, err = t.do(host.Op{Kind: host.OpTruncate, File: h, Length: f.size}); err != nil {
				return err
			}
			if f.name == "journal" {
				if _, err = t.do(host.Op{Kind: host.OpAllocate, File: h, Length: f.size}); err != nil && !isUnsupported(err) {
					return err
				}
			}
		}
		if _, err = t.do(host.Op{Kind: host.OpSync, File: h}); err != nil {
			return err
		}
		if _, err = t.do(host.Op{Kind: host.OpClose, File: h}); err != nil {
			return err
		}
	}
	if err := t.writeManifest(r.man); err != nil {
		return err
	}
	return t.syncDir(r.path("chunks"))
}

func (t *task) syncDir(path string) error {
	_, err := t.do(host.Op{Kind: host.OpSyncDir, Path: path})
	return err
}

func parent(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "."
}

// writeManifest replaces replica.json durably, and then takes m as what the replica is.
// Which of the two is there after an error is not known, unless the error is NoSpace.
func (t *task) writeManifest(m Manifest) error {
	r := t.r
	if err := m.validate(); err != nil {
		return fault.E("store", fault.Internal, m.Volume, err)
	}
	fresh := r.path("replica.json.new")
	if err := t.writeFile(fresh, m.encode()); err != nil {
		return err
	}
	if _, err := t.do(host.Op{Kind: host.OpRename, Path: fresh, To: r.path("replica.json")}); err != nil {
		return err
	}
	if err := t.syncDir(r.dir); err != nil {
		return fault.E("store", fault.Media, m.Volume, err)
	}
	r.man = m
	return nil
}

// writeFile makes a file with the bytes b, durable but for its name.
func (t *task) writeFile(path string, b []byte) error {
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: path, Flags: host.Create})
	if err != nil {
		return err
	}
	h := op.File
	_, err = t.do(host.Op{Kind: host.OpTruncate, File: h})
	if err == nil {
		_, err = t.do(host.Op{Kind: host.OpWrite, File: h, Buf: b})
	}
	if err == nil {
		_, err = t.do(host.Op{Kind: host.OpSync, File: h})
	}
	if _, cerr := t.do(host.Op{Kind: host.OpClose, File: h}); err == nil {
		err = cerr
	}
	return err
}

// lockManifest is lock of manLock. While a snapshot that was taken holds it because there
// is no space for it that is an error.
func (t *task) lockManifest() error {
	r := t.r
	for {
		if err := t.awaitSeal(); err != nil {
			return err
		}
		if !r.manLock.held {
			r.manLock.held = true
			return nil
		}
		r.manLock.waiting = append(r.manLock.waiting, t)
		t.park()
	}
}

// change writes a changed manifest. A replica whose manifest can't be written fails,
// unless there was only no space for it.
func (t *task) change(f func(*Manifest)) error {
	r := t.r
	if err := t.lockManifest(); err != nil {
		return err
	}
	defer t.unlock(&r.manLock)
	if r.broken != nil {
		return r.broken
	}
	m := r.man.clone()
	f(&m)
	err := t.writeManifest(m)
	if err != nil && !fault.Is(err, fault.NoSpace) {
		return r.fail(err)
	}
	return err
}

func newReplica(d host.Disk, dir string, o Options) *Replica {
	r := &Replica{
		disk: d, dir: dir, opts: o.withDefaults(),
		chunks: make(map[block.Chunk]*chunk),
		tables: tableCache{byKey: make(map[tableKey]*table), views: make(map[tableKey]block.Generation), loading: make(map[tableKey]*taskLock)},
		files:  fileCache{byKey: make(map[fileKey]*file)},
		tasks:  make(map[*task]struct{}),
		epoch:  1,
		writes: 1, // older processes' writes come before this one's
	}
	r.reclaim.stale = make(map[block.Chunk]bool)
	r.regions.waiting = make(map[block.Region]*region)
	return r
}

// Open opens the replica in dir and calls done with it once it serves. It reads the
// manifest, the region table, the journal and the names of the chunk files, no data.
// Errors: NotFound, Busy (another process has it), Corrupt, Media, Unsupported.
func Open(d host.Disk, dir string, o Options, done func(*Replica, error)) {
	r := newReplica(d, dir, o)
	r.spawn("open", func(t *task) {
		r.opts.Shared.join(r)
		if err := t.open(); err != nil {
			t.awaitOthers()
			t.letGo()
			r.abandon(t)
			done(nil, fault.Wrap("store.Open", err))
			return
		}
		done(r, nil)
	})
}

func (t *task) open() error {
	r := t.r
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path("lock"), Flags: host.Lock})
	if err != nil {
		if fault.Is(err, fault.Busy) {
			return fault.E("store.Open", fault.Busy, r.man.Volume, fmt.Errorf("%s is open in another process: stop it first: %w", r.dir, err))
		}
		return err
	}
	r.lock, r.locked = op.File, true
	if err := t.readManifest(); err != nil {
		return err
	}
	r.found = r.man.Generation
	if err := t.readLoss(); err != nil {
		return err
	}
	if err := t.openRegions(); err != nil {
		return err
	}
	if err := t.listChunks(); err != nil {
		return err
	}
	clean := r.man.Journal
	if err := t.openJournal(clean); err != nil {
		return err
	}
	if clean == 0 {
		r.crashed = true
		r.flusher.all = true
		r.flusher.created = true
	} else if err := t.change(func(m *Manifest) { m.Journal, m.JournalTail = 0, clean }); err != nil {
		return err
	}
	if r.lost != nil { // the same of what the manifest promises
		if err := t.change(func(*Manifest) {}); err != nil {
			return err
		}
	}
	r.epoch = max(r.man.Promised, 1)
	r.spawn("flush", func(t *task) { t.flushLoop() })
	if err := t.finishSeal(); err != nil {
		return err
	}
	r.spawn("save", func(t *task) { t.saveLoop() })
	r.settleReplay()
	if len(r.man.Reclaim) > 0 {
		r.startReclaim()
	}
	return nil
}

func (t *task) readWhole(name string, limit int64) ([]byte, error) {
	r := t.r
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path(name), Flags: host.ReadOnly})
	if err != nil {
		return nil, err
	}
	h := op.File
	defer func() { _, _ = t.do(host.Op{Kind: host.OpClose, File: h}) }()
	op, err = t.do(host.Op{Kind: host.OpStat, File: h})
	if err != nil {
		return nil, err
	}
	if op.Stat.Size > limit {
		return nil, fault.E("store.Open", fault.Corrupt, r.man.Volume, fmt.Errorf("%s has %d bytes, at most %d are possible", name, op.Stat.Size, limit))
	}
	b := make([]byte, op.Stat.Size)
	op, err = t.do(host.Op{Kind: host.OpRead, File: h, Buf: b})
	if err != nil {
		return nil, err
	}
	return b[:op.N], nil
}

func (t *task) readManifest() error {
	b, err := t.readWhole("replica.json", manifestSizeMax)
	if err != nil {
		return err
	}
	m, err := decodeManifest(b)
	if fault.Is(err, fault.Unsupported) {
		return err
	}
	if err != nil {
		return fault.E("store.Open", fault.Corrupt, m.Volume, err)
	}
	t.r.man = m
	if t.r.unsealed = m.Generation; m.Sealing != 0 {
		t.r.man.Generation = m.Sealing + 1 // there may be files of it
	}
	return nil
}

// openRegions reads the region table. A damaged record makes its region unreadable,
// not the replica.
func (t *task) openRegions() error {
	r := t.r
	rt := &r.regions
	rt.init(block.Regions(r.man.Size))
	op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path("regions"), Flags: host.Direct | fence})
	if err != nil {
		return err
	}
	rt.file, rt.opened = op.File, true
	if op, err = t.do(host.Op{Kind: host.OpStat, File: rt.file}); err != nil {
		return err
	}
	if want := int64(len(rt.blocks)) * block.Size; op.Stat.Size < want { // what is cut off would pass for never written
		return r.corrupt("store.Open", r.man.Generation, 0, "region table", "it has %d bytes, the volume needs %d", op.Stat.Size, want)
	}
	const stepMax = 1 << 20
	size := len(rt.blocks) * block.Size
	buf := host.Buffer(min(size, stepMax))
	for off := 0; off < size; off += stepMax {
		b := buf[:min(size-off, stepMax)]
		op, err := t.do(host.Op{Kind: host.OpRead, File: rt.file, Offset: int64(off), Buf: b})
		if err != nil {
			return err
		}
		clear(b[op.N:])
		for k := 0; k < len(b); k += block.Size {
			if !allZero(b[k : k+block.Size]) {
				r.decodeRecords((off+k)/block.Size, b[k:k+block.Size])
			}
		}
	}
	return nil
}

func (r *Replica) decodeRecords(i int, b []byte) {
	for j := range perTabBlock {
		n := block.Region(i*perTabBlock + j)
		if int(n) >= r.regions.count {
			return
		}
		rec, err := decodeRecord(b[j*recordSize:], n)
		if top := max(rec.since, rec.tableGen, rec.lost); err == nil && top > r.man.Generation {
			err = fmt.Errorf("record of region %d: generation %d is above %d", n, top, r.man.Generation)
		}
		if err == nil && rec == (record{}) {
			continue
		}
		rg := r.regions.at(n)
		if err != nil {
			rg.damage(r.corrupt("store", r.man.Generation, n.Start(), "region record", "%v", err))
			continue
		}
		rg.record = rec
		if rec.since != 0 {
			rg.lastWrite = 1 // by an earlier process: not to be cleaned before a Clean of this one's
			rg.suspect = r.man.Journal == 0
			r.regions.dirty = append(r.regions.dirty, n)
			if rg.suspect { // what a process wrote and did not live to sync is shown, and may not be on the disk
				r.regions.put(n)
			}
		}
	}
}

// listChunks learns from their names which chunk files there are, finishes merges that
// a crash interrupted, and removes what those left that were not complete.
func (t *task) listChunks() error {
	r := t.r
	op, err := t.do(host.Op{Kind: host.OpList, Path: r.path("chunks")})
	if err != nil {
		return err
	}
	gone := make(map[fileKey]bool)
	for _, e := range op.Entries {
		key, ok := parseFileKey(e.Name)
		into, from, merged := parseMerged(e.Name)
		switch {
		case merged:
			if err := t.finishMerge(into, from); err != nil {
				return err
			}
			gone[fileKey{into.chunk, from}] = true
		case strings.HasSuffix(e.Name, mergeSuffix):
			if _, err := t.do(host.Op{Kind: host.OpRemove, Path: r.path("chunks/" + e.Name)}); err != nil {
				return err
			}
		case !ok:
			// Not ours: Check reports it.
		case key.gen > r.man.Generation || int(key.chunk) >= block.Chunks(r.man.Size):
			return r.corrupt("store.Open", key.gen, key.chunk.Start(), "chunk file", "%s is beyond generation %d or size %d of replica.json", e.Name, r.man.Generation, r.man.Size)
		default:
			r.chunk(key.chunk).gens = append(r.chunk(key.chunk).gens, key.gen)
		}
	}
	for n, c := range r.chunks {
		slices.Sort(c.gens)
		c.gens = slices.DeleteFunc(c.gens, func(g block.Generation) bool { return gone[fileKey{n, g}] })
	}
	return nil
}

// Close finishes what is in flight, saves every table, and lets go of the files. The
// caller has no request in flight and submits none afterwards.
func (r *Replica) Close(done func(error)) {
	r.spawn("close", func(t *task) {
		err := t.close()
		t.awaitOthers()
		t.letGo()
		r.abandon(t)
		done(fault.Wrap("store.Close", err))
	})
}

func (t *task) close() error {
	r := t.r
	if r.broken != nil {
		return r.broken
	}
	if r.active > 0 {
		return fault.E("store.Close", fault.Precondition, r.man.Volume, fmt.Errorf("%d requests are in flight", r.active))
	}
	r.reclaim.stop = true
	for len(r.journal.replay) > 0 || r.reclaim.running {
		if r.reclaim.running {
			r.reclaim.waiting = append(r.reclaim.waiting, t)
			t.park()
			continue
		}
		for _, key := range r.journal.replay.keys() {
			if _, err := t.loadTable(key); err != nil {
				return err // not a clean close: the next Open sees to it
			}
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.drained(); err != nil {
		return err
	}
	for {
		var dirty []*table
		for _, tab := range r.tables.list {
			if tab.dirty && len(dirty) < saveBatch {
				dirty = append(dirty, tab)
			}
		}
		if len(dirty) == 0 {
			break
		}
		if err := t.save(dirty, nil); err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := t.commitAndWait(); err != nil {
		return err
	}
	suspect := false
	r.regions.each(func(_ block.Region, rg *region) bool {
		suspect = suspect || rg.suspect
		return !suspect
	})
	if suspect {
		return nil // the crash before this session is not settled everywhere
	}
	if err := t.agreeAll(); err != nil {
		return err
	}
	return t.change(func(m *Manifest) { m.Journal, m.Sealing, m.Void = r.journal.next, 0, nil })
}

// awaitOthers waits until no other task is left than those that never end.
func (t *task) awaitOthers() {
	r := t.r
	r.closer = t
	for o := range r.tasks { // a scrub that waits for leave to go on
		if o != t {
			o.wake()
		}
	}
	for {
		busy := 0
		for o := range r.tasks {
			if o != t && o != r.flusher.task && o != r.saver.task {
				busy++
			}
		}
		if busy == 0 && (r.flusher.task == nil || r.flusher.idle || r.broken != nil) && (r.saver.task == nil || r.saver.idle) {
			return
		}
		t.park()
	}
}

// letGo closes every file, the lock last.
func (t *task) letGo() {
	r := t.r
	r.closed = true
	for _, f := range append(slices.Clone(r.files.list), r.files.orphans...) {
		if f.ready {
			t.closeFile(f)
		}
	}
	if r.journal.opened {
		_, _ = t.do(host.Op{Kind: host.OpClose, File: r.journal.file})
	}
	if r.regions.opened {
		_, _ = t.do(host.Op{Kind: host.OpClose, File: r.regions.file})
	}
	if r.locked {
		_, _ = t.do(host.Op{Kind: host.OpClose, File: r.lock})
	}
}

// Delete removes the replica in dir and calls done. It is idempotent: a directory that
// is not there is a success. The replica must not be open.
func Delete(d host.Disk, dir string, done func(error)) {
	r := newReplica(d, dir, Options{})
	r.spawn("delete", func(t *task) { done(fault.Wrap("store.Delete", t.deleteTree())) })
}

func (t *task) deleteTree() error {
	r := t.r
	gone := r.dir + newSuffix
	if op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.path("lock"), Flags: host.Lock}); err == nil {
		lock := op.File // until the directory is gone: nobody opens it meanwhile
		defer func() { _, _ = t.do(host.Op{Kind: host.OpClose, File: lock}) }()
	} else if fault.Is(err, fault.Busy) {
		return fault.E("store.Delete", fault.Busy, r.man.Volume, fmt.Errorf("%s is open: close it first", r.dir))
	}
	if _, err := t.do(host.Op{Kind: host.OpList, Path: r.dir}); err == nil {
		if err := t.removeTree(gone); err != nil {
			return err
		}
		if _, err := t.do(host.Op{Kind: host.OpRename, Path: r.dir, To: gone}); err != nil {
			return err
		}
		if err := t.syncDir(parent(r.dir)); err != nil {
			return err
		}
	}
	if err := t.removeTree(gone); err != nil {
		return err
	}
	return t.syncDir(parent(r.dir))
}

// removeTree removes a directory and what is in it; one that is not there is a success.
func (t *task) removeTree(path string) error {
	op, err := t.do(host.Op{Kind: host.OpList, Path: path})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range op.Entries {
		p := path + "/" + e.Name
		if e.Dir {
			err = t.removeTree(p)
		} else {
			_, err = t.do(host.Op{Kind: host.OpRemove, Path: p})
		}
		if err != nil && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	_, err = t.do(host.Op{Kind: host.OpRemove, Path: path})
	return err
}
