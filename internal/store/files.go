package store

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// fileKey names a chunk file.
type fileKey struct {
	chunk block.Chunk
	gen   block.Generation
}

// region returns the i-th region of the file's chunk.
func (k fileKey) region(i int) block.Region {
	return block.Region(int(k.chunk)*block.RegionsPerChunk + i)
}

func (k fileKey) name() string { return fmt.Sprintf("%08d.%06d", k.chunk, k.gen) }

// parseFileKey reads what name printed; ok is false for any other name.
func parseFileKey(name string) (k fileKey, ok bool) {
	c, g, found := strings.Cut(name, ".")
	chunk, err1 := strconv.ParseUint(c, 10, 32)
	gen, err2 := strconv.ParseUint(g, 10, 32)
	if !found || err1 != nil || err2 != nil || gen == 0 {
		return k, false
	}
	k = fileKey{block.Chunk(chunk), block.Generation(gen)}
	return k, k.name() == name
}

// file is a chunk file that is open.
type file struct {
	key      fileKey
	handle   host.File
	ready    bool // handle is valid
	refs     int  // transfers and tasks that use it
	unsynced bool // written to since the last sync began
	used     uint64
	waiters  reqList
	tasks    []*task
	err      error // opening failed
}

// fileCache keeps chunk files open, the least recently used closed first.
type fileCache struct {
	byKey map[fileKey]*file
	list  []*file // the same, in the order of opening
	// orphans are open files whose name is gone: closed when their last reader is done.
	orphans []*file
	clock   uint64
}

// file returns the open file of key, held for q, or nil after having put q in line for
// it (or having failed it).
func (r *Replica) file(key fileKey, q *Request) *file {
	f := r.files.byKey[key]
	if f == nil {
		f = r.openFile(key)
	}
	if f.ready {
		r.useFile(f)
		q.holdFile(f)
		return f
	}
	if f.err != nil {
		err := f.err
		r.forgetFile(f)
		if c := r.chunks[key.chunk]; c.newest(key.gen) != key.gen {
			r.run(q) // the file was merged or removed meanwhile: look again
			return nil
		}
		r.end(q, err)
		return nil
	}
	f.waiters.push(q)
	return nil
}

// fence opens a file when no operation of a dead predecessor can change it any more. The
// lock of the directory is not enough: it is free as soon as the predecessor is gone,
// while what it had in flight in the kernel may not have ended yet.
const fence = host.Lock | host.LockWait

// openFile starts to open the file of key, which exists.
func (r *Replica) openFile(key fileKey) *file {
	f := &file{key: key}
	r.files.byKey[key] = f
	r.files.list = append(r.files.list, f)
	r.spawn("open "+key.name(), func(t *task) {
		t.shrinkFiles()
		flags := host.Direct
		if key.gen > r.man.Base { // older ones are not written to, and the origin may have them open
			flags |= fence
		}
		op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.chunkPath(key), Flags: flags})
		if err == nil {
			f.handle, f.ready = op.File, true
		} else {
			f.err = err
		}
		tasks := f.tasks
		f.tasks = nil
		r.rerun(&f.waiters)
		for _, w := range tasks {
			w.wake()
		}
	})
	return f
}

func (r *Replica) chunkPath(key fileKey) string { return r.path("chunks/" + key.name()) }

// file returns the open file of key with one more reference.
func (t *task) file(key fileKey) (*file, error) {
	r := t.r
	for {
		f := r.files.byKey[key]
		if f == nil {
			f = r.openFile(key)
		}
		if f.ready {
			f.refs++
			r.useFile(f)
			return f, nil
		}
		if f.err != nil {
			r.forgetFile(f)
			return nil, f.err
		}
		f.tasks = append(f.tasks, t)
		t.park()
	}
}

func (r *Replica) forgetFile(f *file) {
	if r.files.byKey[f.key] == f {
		delete(r.files.byKey, f.key)
	}
	if i := slices.Index(r.files.list, f); i >= 0 {
		r.files.list = slices.Delete(r.files.list, i, i+1)
	}
}

// shrinkFiles closes idle files while more than FilesMax are open. A file with writes
// that were not synced stays open, so that its sync reports their errors; when nothing
// else is left a flush is asked for, which makes room for the next time.
func (t *task) shrinkFiles() {
	r := t.r
	for i := 0; i < len(r.files.orphans); i++ {
		if f := r.files.orphans[i]; f.refs == 0 && f.ready {
			r.files.orphans = slices.Delete(r.files.orphans, i, i+1)
			_, _ = t.do(host.Op{Kind: host.OpClose, File: f.handle})
			i = -1
		}
	}
	flushed := false
	for len(r.files.list) > r.opts.FilesMax {
		var victim *file
		for _, f := range r.files.list {
			if f.ready && f.refs == 0 && !f.unsynced && (victim == nil || f.used < victim.used) {
				victim = f
			}
		}
		if victim == nil {
			if len(r.files.list) > 2*r.opts.FilesMax && !r.flusher.inside(t) && !flushed {
				flushed = true // once: what is in use all the same can't be closed
				if t.flush() != nil {
					return
				}
				continue
			}
			r.flusher.kick(r)
			return
		}
		t.closeFile(victim)
	}
	r.opts.Shared.shrinkFiles()
}

// closeFile closes an idle file. Whoever wants it meanwhile waits, and then opens it
// again: two handles at once would get in each other's way by the lock.
func (t *task) closeFile(f *file) {
	r := t.r
	f.ready = false
	_, _ = t.do(host.Op{Kind: host.OpClose, File: f.handle})
	r.forgetFile(f)
	tasks := f.tasks
	f.tasks = nil
	r.rerun(&f.waiters)
	for _, w := range tasks {
		w.wake()
	}
}

// chunk is what is known of one chunk: its files, and how far the live one is filled.
type chunk struct {
	gens []block.Generation // of the files that exist, ascending
	lost uint32             // how many were removed since the replica was opened
	dead int                // blocks of obsolete files that died since they were looked at

	// The live generation's file, once it is ready for first writes.
	ready     block.Generation // the generation for which what follows is true
	preparing bool             // a task creates or examines the file
	growing   bool             // a task reserves space
	next      int              // the next free slot
	reserved  int              // slots below this one have space
	created   bool             // the file's name is not durable yet
	waiters   reqList
	tasks     []*task // that wait for the end of preparing
	err       error   // of the last attempt to prepare or grow
}

// newest returns the newest file's generation that is at most g, or 0.
func (c *chunk) newest(g block.Generation) block.Generation {
	i, found := slices.BinarySearch(c.gens, g)
	if found {
		return g
	}
	if i == 0 {
		return 0
	}
	return c.gens[i-1]
}

// after returns the oldest file's generation above g, or 0.
func (c *chunk) after(g block.Generation) block.Generation {
	i, found := slices.BinarySearch(c.gens, g)
	if found {
		i++
	}
	if i == len(c.gens) {
		return 0
	}
	return c.gens[i]
}

func (c *chunk) add(g block.Generation) {
	if i, found := slices.BinarySearch(c.gens, g); !found {
		c.gens = slices.Insert(c.gens, i, g)
	}
}

func (c *chunk) remove(g block.Generation) {
	if i, found := slices.BinarySearch(c.gens, g); found {
		c.lost++
		c.gens = slices.Delete(c.gens, i, i+1)
	}
}

func (r *Replica) chunk(n block.Chunk) *chunk {
	c := r.chunks[n]
	if c == nil {
		c = &chunk{}
		r.chunks[n] = c
	}
	return c
}

// prepared sees to it that chunk n has a live file with room for slots first writes.
// It reports false after having put q in line, or having failed it.
func (r *Replica) prepared(n block.Chunk, slots int, q *Request) bool {
	c := r.chunk(n)
	if err := c.err; err != nil {
		r.end(q, err)
		return false
	}
	if c.ready != r.man.Generation {
		c.waiters.push(q)
		if !c.preparing {
			c.preparing = true
			r.spawn("prepare", func(t *task) { _ = t.prepare(n, c) }) // c.waiters get the error
		}
		return false
	}
	if slots == 0 {
		return true
	}
	if c.next+slots > block.PerChunk { // only where failed first writes used slots up
		r.end(q, fault.E("store.Write", fault.NoSpace, r.man.Volume, fmt.Errorf("chunk %d has no slots left in generation %d: take a snapshot", n, r.man.Generation)))
		return false
	}
	short := c.next+slots > c.reserved
	if short {
		c.waiters.push(q)
	}
	if !c.growing && c.reserved < block.PerChunk && (short || c.reserved-c.next < reserveStep(c.next)/2) {
		c.growing = true
		r.spawn("grow", func(t *task) { t.growChunk(n, c, slots) })
	}
	return !short
}

// reserveStep is how many slots are reserved at a time in a file that has next: as
// many as it has, so that at most half of a file's space is waste, at least 64 KiB, at
// most 4 MiB.
func reserveStep(next int) int { return min(max(next, 16), 1024) }

// prepare creates the live generation's file of chunk n, or finds out how far it is
// filled.
func (t *task) prepare(n block.Chunk, c *chunk) error {
	r := t.r
	gen := r.man.Generation
	key := fileKey{n, gen}
	err := func() error {
		if c.newest(gen) == gen {
			return t.examine(key, c)
		}
		if err := r.admit(2*tableSize + int64(reserveStep(0))*block.Size); err != nil {
			return err
		}
		op, err := t.do(host.Op{Kind: host.OpOpen, Path: r.chunkPath(key), Flags: host.Create | host.Direct | fence})
		if err != nil {
			return err
		}
		f := &file{key: key, handle: op.File, ready: true, unsynced: true, refs: 1}
		if old := r.files.byKey[key]; old != nil {
			panic("store: a file that did not exist is open")
		}
		if _, err := t.do(host.Op{Kind: host.OpTruncate, File: f.handle, Length: chunkFileSize}); err != nil {
			_, _ = t.do(host.Op{Kind: host.OpClose, File: f.handle})
			return err
		}
		r.files.byKey[key] = f
		r.files.list = append(r.files.list, f)
		defer func() { f.refs-- }()
		c.created = true
		r.flusher.created = true
		t.shrinkFiles()
		c.add(gen)
		c.next, c.reserved = 0, 0
		return nil
	}()
	c.preparing = false
	c.err = err
	if err == nil && gen == r.man.Generation {
		c.ready = gen
	}
	r.rerun(&c.waiters)
	c.err = nil
	tasks := c.tasks
	c.tasks = nil
	for _, w := range tasks {
		w.wake()
	}
	return err
}

// examine finds the first free slot of a live file that an earlier process left, from
// every copy of every table in it and from the journal.
func (t *task) examine(key fileKey, c *chunk) error {
	r := t.r
	f, err := t.file(key)
	if err != nil {
		return err
	}
	defer func() { f.refs-- }()
	if _, err := t.do(host.Op{Kind: host.OpTruncate, File: f.handle, Length: chunkFileSize}); err != nil {
		return err
	}
	f.unsynced = true
	// First what is in memory, then the disk: a table that is saved and dropped
	// meanwhile is found in one of them.
	next := 0
	for i := range block.RegionsPerChunk {
		if tab := r.tables.byKey[tableKey{key.region(i), key.gen}]; tab != nil {
			next = max(next, tab.slotsEnd())
		}
	}
	for _, m := range r.journal.replay.of(key) {
		if m.kind == mapData {
			next = max(next, int(m.slot)+int(m.count))
		}
	}
	tab := new(table)
	buf := host.Buffer(2 * tableSize)
	for i := range block.RegionsPerChunk {
		region := key.region(i)
		if int(region) >= r.regions.count {
			break
		}
		op, err := t.do(host.Op{Kind: host.OpRead, File: f.handle, Offset: tableOffset(region, 0), Buf: buf})
		if err != nil {
			return err
		}
		clear(buf[op.N:])
		for k := range 2 {
			tab.reset(region, key.gen)
			if _, present, err := decodeTable(tab, buf[k*tableSize:(k+1)*tableSize], r.owns); present && err == nil {
				next = max(next, tab.slotsEnd())
			}
		}
	}
	c.next, c.reserved = next, next
	return nil
}

// slotsEnd returns the slot after the last one that the table uses in its own file.
func (t *table) slotsEnd() int {
	end := 0
	for i := range t.slots {
		if e := t.at(i); e.holder == t.gen && (e.state == data || e.state == punched) {
			end = max(end, int(e.slot)+1)
		}
	}
	return end
}

// growChunk reserves space for first writes in the live file of chunk n.
func (t *task) growChunk(n block.Chunk, c *chunk, slots int) {
	r := t.r
	gen := r.man.Generation
	err := func() error {
		f, err := t.file(fileKey{n, gen})
		if err != nil {
			return err
		}
		defer func() { f.refs-- }()
		end := min(max(c.reserved, c.next)+max(slots, reserveStep(c.next)), block.PerChunk)
		length := int64(end-c.reserved) * block.Size
		if err := r.admit(length); err != nil {
			return err
		}
		_, err = t.do(host.Op{Kind: host.OpAllocate, File: f.handle, Offset: slotOffset(uint16(c.reserved)), Length: length})
		if err != nil && !isUnsupported(err) {
			return err
		}
		f.unsynced = true
		if c.ready == gen {
			c.reserved = end
		}
		return nil
	}()
	c.growing = false
	c.err = err
	r.rerun(&c.waiters)
	c.err = nil
}

func (r *Replica) admit(bytes int64) error {
	if r.opts.Space == nil {
		return nil
	}
	return r.opts.Space.Admit(bytes)
}

func compareKeys(a, b fileKey) int {
	return cmp.Or(cmp.Compare(a.chunk, b.chunk), cmp.Compare(a.gen, b.gen))
}
