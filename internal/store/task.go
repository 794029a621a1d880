package store

import (
	"iter"

	"github.com/holdfast-io/holdfast/internal/host"
)

// task is work of several steps, written as straight text: a coroutine that the
// owner's goroutine enters, and that returns control when it waits. Nothing runs
// beside anything: between two waits a task has the replica to itself. Tasks serve
// what is rare (opening, snapshots, saving tables); requests that find everything
// ready never touch one.
type task struct {
	r      *Replica
	name   string
	resume func() (struct{}, bool)
	stop   func()
	yield  func(struct{}) bool
	parked bool
	woken  bool           // wake came while it was not parked
	left   int            // operations of doAll
	one    func(*host.Op) // is called for each of them; made once, for a flush is to allocate nothing
}

// errStopped unwinds a task whose replica was abandoned.
type errStopped struct{}

// spawn runs f as a task until its first wait, and then whenever what it waits for
// has happened.
func (r *Replica) spawn(name string, f func(t *task)) {
	t := &task{r: r, name: name}
	r.tasks[t] = struct{}{}
	t.resume, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		defer func() {
			t.parked = false
			delete(r.tasks, t)
			if r.closer != nil {
				r.closer.wake()
			}
			if e := recover(); e != nil {
				if _, ok := e.(errStopped); !ok {
					panic(e)
				}
				return
			}
		}()
		f(t)
	})
	t.resume()
}

// park waits for a wake. It may return early for a wake that was meant for an earlier
// wait, so callers look again at what they wait for.
func (t *task) park() {
	if t.woken {
		t.woken = false
		return
	}
	t.parked = true
	ok := t.yield(struct{}{})
	t.parked = false
	if !ok {
		panic(errStopped{})
	}
}

// wake lets a parked task go on, or its next park return at once. Tasks of a replica
// that was abandoned go nowhere.
func (t *task) wake() {
	if t.r.abandoned {
		return
	}
	if !t.parked {
		t.woken = true
		return
	}
	t.resume()
}

// do performs one disk operation and waits for it.
func (t *task) do(op host.Op) (*host.Op, error) {
	done := false
	op.Done = func(*host.Op) {
		done = true
		t.wake()
	}
	t.r.submit(&op)
	for !done {
		t.park()
	}
	return &op, op.Err
}

// doAll performs ops side by side, waits for all, and returns the first error.
func (t *task) doAll(ops []host.Op) error {
	if t.one == nil {
		t.one = func(*host.Op) {
			if t.left--; t.left == 0 {
				t.wake()
			}
		}
	}
	t.left = len(ops)
	for i := range ops {
		ops[i].Done = t.one
		t.r.submit(&ops[i])
	}
	for t.left > 0 {
		t.park()
	}
	for i := range ops {
		if ops[i].Err != nil {
			return ops[i].Err
		}
	}
	return nil
}

// taskLock keeps tasks out of each other's way across waits.
type taskLock struct {
	held    bool
	waiting []*task
}

func (t *task) lock(l *taskLock) {
	for l.held {
		l.waiting = append(l.waiting, t)
		t.park()
	}
	l.held = true
}

func (t *task) unlock(l *taskLock) {
	l.held = false
	waiting := l.waiting
	l.waiting = nil
	for _, w := range waiting {
		w.wake()
	}
}
