package store

import (
	"slices"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// flusher makes durable what was written, one flush at a time; requests that come up
// meanwhile share the next one.
type flusher struct {
	task    *task
	idle    bool
	again   bool // one more flush is wanted, whoever asked
	waiters reqList
	tasks   []*flushWait
	all     bool // an earlier process left writes that were not synced
	created bool // a chunk file's name is not durable
	disown  bool // the journal is to say that it goes on before what an earlier process left
	ops     []host.Op
	files   []*file // that ops sync
}

// syncAllAbove is the number of files from which one sync of the whole filesystem is
// cheaper than one each.
const syncAllAbove = 64

func (fl *flusher) request(r *Replica, q *Request) {
	if r.sealing.gen != 0 { // what it is for is given up if the power fails before the snapshot is durable
		r.sealing.flushes.push(q)
		r.sealing.kick()
		return
	}
	fl.waiters.push(q)
	fl.kick(r)
}

func (fl *flusher) kick(r *Replica) {
	fl.again = true
	if fl.idle && r.broken == nil {
		fl.idle = false
		fl.task.wake()
	}
}

// inside reports whether t is the task that flushes: it must not wait for itself.
func (fl *flusher) inside(t *task) bool { return fl.task == t }

// flush waits for a flush that begins after the call.
func (t *task) flush() error {
	r := t.r
	if err := t.awaitSeal(); err != nil {
		return err
	}
	w := &flushWait{task: t}
	r.flusher.tasks = append(r.flusher.tasks, w)
	r.flusher.kick(r)
	for !w.done && r.broken == nil {
		t.park()
	}
	return r.broken
}

// flushWait is a task that waits for a flush.
type flushWait struct {
	task *task
	done bool
}

// flushLoop is the task that flushes.
func (t *task) flushLoop() {
	r := t.r
	fl := &r.flusher
	fl.task = t
	for {
		for !fl.again {
			fl.idle = true
			if r.closer != nil {
				r.closer.wake()
			}
			t.park()
		}
		fl.again = false
		waiters, tasks := fl.waiters, slices.Clone(fl.tasks)
		fl.waiters = reqList{}
		fl.tasks = fl.tasks[:0]
		err := t.flushOnce()
		for q := waiters.take(); q != nil; {
			next := q.next
			q.next = nil
			r.end(q, err)
			q = next
		}
		for _, w := range tasks {
			w.done = true
			w.task.wake()
		}
	}
}

// flushOnce makes durable what is done now: data first, with the journal and the names
// of new files, then the marker that vouches for the journal's records.
func (t *task) flushOnce() error {
	r := t.r
	fl, j := &r.flusher, &r.journal
	through := j.last
	t.awaitArrival(through)
	if r.broken != nil {
		return r.broken
	}
	fl.ops, fl.files = fl.ops[:0], fl.files[:0]
	for _, f := range r.files.list {
		if f.unsynced && f.ready {
			f.unsynced = false
			f.refs++
			fl.files = append(fl.files, f)
			fl.ops = append(fl.ops, host.Op{Kind: host.OpSync, File: f.handle})
		}
	}
	if len(fl.ops) > syncAllAbove || fl.all {
		fl.all = false
		fl.ops = append(fl.ops[:0], host.Op{Kind: host.OpSyncAll})
	}
	if j.unsynced {
		j.unsynced = false
		fl.ops = append(fl.ops, host.Op{Kind: host.OpSync, File: j.file})
	}
	if fl.created {
		fl.created = false
		fl.ops = append(fl.ops, host.Op{Kind: host.OpSyncDir, Path: r.path("chunks")})
	}
	err := t.syncAlone(fl.ops)
	for _, f := range fl.files {
		f.refs--
	}
	clear(fl.files)
	if err != nil {
		return fault.Wrap("store.Flush", err)
	}
	if through > j.durable || fl.disown {
		fl.disown = false
		return t.mark(max(through, j.durable))
	}
	return nil
}

// syncAlone performs syncs of chunk files, with no other beside them: of two that lose the
// same data the kernel tells one, and the other that all is well.
func (t *task) syncAlone(ops []host.Op) error {
	r := t.r
	t.lock(&r.syncs)
	defer t.unlock(&r.syncs)
	if r.broken != nil {
		return r.broken
	}
	if err := t.doAll(ops); err != nil {
		return r.fail(err)
	}
	return nil
}
