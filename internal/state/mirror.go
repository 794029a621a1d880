package state

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Index names, for an entry, the values under which ByIndex finds it.
type Index[T proto.Message] func(Entry[T]) []string

// Mirror keeps a table in memory. It lists by itself and watches from there, begins anew
// when it must, and keeps what it knew last while the store is away. Its methods are for
// any goroutine; what they return is shared and must not be changed.
type Mirror[T proto.Message] struct {
	table   Table[T]
	indexes map[string]Index[T]
	ready   chan struct{}

	mu       sync.RWMutex
	entries  map[string]Entry[T]
	found    map[string]map[string]map[string]bool // index, value, id
	revision Revision
	err      error
	changed  chan struct{}
	feeds    map[*Feed]bool
}

// NewMirror begins to mirror a table, until ctx ends. The indexes are those of ByIndex, by
// name.
func NewMirror[T proto.Message](ctx context.Context, s Store, t Table[T], indexes map[string]Index[T]) *Mirror[T] {
	m := &Mirror[T]{table: t, indexes: indexes, ready: make(chan struct{}), changed: make(chan struct{}),
		feeds: map[*Feed]bool{}}
	m.reset(nil)
	go m.run(ctx, s)
	return m
}

// Ready is closed when the table has been read for the first time.
func (m *Mirror[T]) Ready() <-chan struct{} { return m.ready }

// Get returns an entry.
func (m *Mirror[T]) Get(id string) (Entry[T], bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.entries[id]
	return e, ok
}

// List returns all entries, in the order of their ids.
func (m *Mirror[T]) List() []Entry[T] {
	m.mu.RLock()
	list := slices.Collect(maps.Values(m.entries))
	m.mu.RUnlock()
	return sorted(list)
}

// Len counts the entries.
func (m *Mirror[T]) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.entries)
}

// ByIndex returns the entries that the index finds under a value, in the order of their ids.
func (m *Mirror[T]) ByIndex(index, value string) []Entry[T] {
	m.mu.RLock()
	ids := m.found[index][value]
	list := make([]Entry[T], 0, len(ids))
	for id := range ids {
		list = append(list, m.entries[id])
	}
	m.mu.RUnlock()
	return sorted(list)
}

func sorted[T proto.Message](list []Entry[T]) []Entry[T] {
	slices.SortFunc(list, func(a, b Entry[T]) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Changed returns a channel that is closed at the next change. Take it before you look.
func (m *Mirror[T]) Changed() <-chan struct{} {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.changed
}

// Err returns why the mirror may be behind: the store is away. nil when it is not.
func (m *Mirror[T]) Err() error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.err
}

// Reach waits until the mirror knows a commit that changed the table.
func (m *Mirror[T]) Reach(ctx context.Context, revision Revision) error {
	for {
		m.mu.RLock()
		reached, changed := m.revision >= revision, m.changed
		m.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Ended("state.Reach", ctx)
		}
	}
}

// Retry bounds how long who waits for a store waits between two attempts.
const (
	retryLeast = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// run lists and watches until ctx ends.
func (m *Mirror[T]) run(ctx context.Context, s Store) {
	wait := retryLeast
	for ctx.Err() == nil {
		err := m.follow(ctx, s, func() { wait = retryLeast })
		m.mu.Lock()
		m.err = err
		m.mu.Unlock()
		if fault.Is(err, fault.Precondition) { // only the watch is over: no reason to wait
			continue
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, retryMost)
		case <-ctx.Done():
		}
	}
}

// follow lists once and watches from there, until something is wrong.
func (m *Mirror[T]) follow(ctx context.Context, s Store, listed func()) error {
	entries, revision, err := m.table.List(ctx, s)
	if err != nil {
		return err
	}
	listed()
	m.relist(entries, revision)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for c := range m.table.Watch(watching, s, revision) {
		if c.Err != nil {
			return c.Err
		}
		m.apply(c)
	}
	return Ended("state.Mirror", ctx)
}

// reset makes the mirror hold entries alone.
func (m *Mirror[T]) reset(entries []Entry[T]) {
	m.entries = make(map[string]Entry[T], len(entries))
	m.found = make(map[string]map[string]map[string]bool, len(m.indexes))
	for name := range m.indexes {
		m.found[name] = map[string]map[string]bool{}
	}
	for _, e := range entries {
		m.put(e)
	}
}

// relist takes over what was listed; who follows hears of what is different.
func (m *Mirror[T]) relist(entries []Entry[T], revision Revision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.entries
	m.reset(entries)
	for id, e := range m.entries {
		if old, ok := was[id]; !ok || old.Revision != e.Revision {
			m.tell(id)
		}
	}
	for id := range was {
		if _, ok := m.entries[id]; !ok {
			m.tell(id)
		}
	}
	m.moved(revision)
	select {
	case <-m.ready:
	default:
		close(m.ready)
	}
}

// apply takes over what changed.
func (m *Mirror[T]) apply(c Changes[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ch := range c.Changes {
		m.drop(ch.ID)
		if !ch.Deleted {
			m.put(ch.Entry)
		}
		m.tell(ch.ID)
	}
	m.moved(c.Revision)
}

func (m *Mirror[T]) put(e Entry[T]) {
	m.entries[e.ID] = e
	for name, index := range m.indexes {
		for _, value := range index(e) {
			ids := m.found[name][value]
			if ids == nil {
				ids = map[string]bool{}
				m.found[name][value] = ids
			}
			ids[e.ID] = true
		}
	}
}

func (m *Mirror[T]) drop(id string) {
	e, ok := m.entries[id]
	if !ok {
		return
	}
	delete(m.entries, id)
	for name, index := range m.indexes {
		for _, value := range index(e) {
			ids := m.found[name][value]
			if delete(ids, id); len(ids) == 0 {
				delete(m.found[name], value)
			}
		}
	}
}

// moved says that the mirror is now as of revision.
func (m *Mirror[T]) moved(revision Revision) {
	m.revision, m.err = revision, nil
	close(m.changed)
	m.changed = make(chan struct{})
}

// tell has the feeds know that an entry changed.
func (m *Mirror[T]) tell(id string) {
	for f := range m.feeds {
		f.add(id)
	}
}

// Feed collects the ids of entries that changed, each once however often it did, until
// they are taken. It begins with all entries that there are.
func (m *Mirror[T]) Feed() *Feed {
	f := &Feed{ids: map[string]bool{}, some: make(chan struct{}, 1)}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.entries {
		f.add(id)
	}
	m.feeds[f] = true
	f.close = func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.feeds, f)
	}
	return f
}

// Feed is a set of ids of entries that somebody has yet to look at.
type Feed struct {
	some  chan struct{}
	close func()

	mu  sync.Mutex
	ids map[string]bool
}

func (f *Feed) add(id string) {
	f.mu.Lock()
	f.ids[id] = true
	f.mu.Unlock()
	select {
	case f.some <- struct{}{}:
	default: // it is known that there are some
	}
}

// Some has a value when there may be ids to take.
func (f *Feed) Some() <-chan struct{} { return f.some }

// Take returns the ids, in order, and forgets them.
func (f *Feed) Take() []string {
	f.mu.Lock()
	ids := f.ids
	f.ids = map[string]bool{}
	f.mu.Unlock()
	return slices.Sorted(maps.Keys(ids))
}

// Close ends the collecting.
func (f *Feed) Close() { f.close() }
