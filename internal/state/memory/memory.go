// Package memory is a state.Store in the memory of one process: for tests, for the
// simulation of large clusters, and for tools of a single node. It forgets all when it is
// closed.
package memory

import (
	"bytes"
	"context"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// historyMax is how many events are remembered for watches.
const historyMax = 1 << 18

// Store is a state.Store.
type Store struct {
	mu       sync.Mutex
	items    map[string]stored
	keys     []string // of items, sorted unless unsorted
	unsorted bool
	revision state.Revision
	history  []state.Event // after forgotten
	forgot   state.Revision
	changed  chan struct{} // closed at the next commit
	leases   map[state.LeaseID]*lease
	lastID   state.LeaseID
	closed   chan struct{}
}

type stored struct {
	state.Item
	lease state.LeaseID
}

// New returns an empty store.
func New() *Store {
	return &Store{items: map[string]stored{}, revision: 1, forgot: 1, changed: make(chan struct{}),
		leases: map[state.LeaseID]*lease{}, closed: make(chan struct{})}
}

// check returns why nothing can be done: ctx or the store has ended.
func (s *Store) check(op string, ctx context.Context) error {
	if ctx.Err() != nil {
		return state.Ended(op, ctx)
	}
	select {
	case <-s.closed:
		return fault.Errorf(op, fault.Unavailable, "the store is closed")
	default:
		return nil
	}
}

// Get returns an item.
func (s *Store) Get(ctx context.Context, key string) (state.Item, error) {
	if err := s.check("state.Get", ctx); err != nil {
		return state.Item{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	it, ok := s.items[key]
	if !ok {
		return state.Item{}, fault.Errorf("state.Get", fault.NotFound, "there is no %s", key)
	}
	return it.Clone(), nil
}

// List returns all items below prefix.
func (s *Store) List(ctx context.Context, prefix string) ([]state.Item, state.Revision, error) {
	if err := s.check("state.List", ctx); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unsorted {
		slices.Sort(s.keys)
		s.unsorted = false
	}
	var items []state.Item
	for i := sort.SearchStrings(s.keys, prefix); i < len(s.keys) && strings.HasPrefix(s.keys[i], prefix); i++ {
		items = append(items, s.items[s.keys[i]].Clone())
	}
	return items, s.revision, nil
}

// Commit does all ops or none.
func (s *Store) Commit(ctx context.Context, ops ...state.Op) (state.Revision, error) {
	const op = "state.Commit"
	if err := state.Check(ops); err != nil {
		return 0, err
	}
	if err := s.check(op, ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range ops {
		if err := s.holds(o); err != nil {
			return 0, fault.Wrap(op, err)
		}
	}
	s.perform(ops)
	return s.revision, nil
}

// holds returns why an op's condition does not hold.
func (s *Store) holds(o state.Op) error {
	if o.Lease != 0 && s.leases[o.Lease] == nil {
		return fault.Errorf("state.Commit", fault.Busy, "the lease for %s has ended", o.Key)
	}
	it, there := s.items[o.Key]
	switch {
	case o.Must == state.MustBeMissing && there:
		return fault.Errorf("state.Commit", fault.Busy, "%s exists", o.Key)
	case o.Must == state.MustBeAt && it.Revision != o.Revision:
		return fault.Errorf("state.Commit", fault.Busy, "%s is at revision %d, not %d", o.Key, it.Revision, o.Revision)
	}
	return nil
}

// perform has the effects of ops, under one new revision if there are any.
func (s *Store) perform(ops []state.Op) {
	next := s.revision + 1
	for _, o := range ops {
		switch o.Does {
		case state.DoesPut:
			s.put(o, next)
		case state.DoesDelete:
			s.delete(o.Key, next)
		}
	}
	if n := len(s.history); n == 0 || s.history[n-1].Revision != next {
		return
	}
	s.revision = next
	if len(s.history) > 2*historyMax {
		s.forget(s.history[historyMax].Revision)
	}
	s.wake()
}

func (s *Store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) put(o state.Op, at state.Revision) {
	old, there := s.items[o.Key]
	if !there {
		s.keys = append(s.keys, o.Key)
		s.unsorted = true
	} else if l := s.leases[old.lease]; l != nil {
		delete(l.keys, o.Key)
	}
	it := state.Item{Key: o.Key, Value: bytes.Clone(o.Value), Revision: at}
	s.items[o.Key] = stored{Item: it, lease: o.Lease}
	if l := s.leases[o.Lease]; l != nil {
		l.keys[o.Key] = true
	}
	s.history = append(s.history, state.Event{Item: it})
}

func (s *Store) delete(key string, at state.Revision) {
	old, there := s.items[key]
	if !there {
		return
	}
	if l := s.leases[old.lease]; l != nil {
		delete(l.keys, key)
	}
	delete(s.items, key)
	if s.unsorted {
		slices.Sort(s.keys)
		s.unsorted = false
	}
	i, _ := slices.BinarySearch(s.keys, key)
	s.keys = slices.Delete(s.keys, i, i+1)
	s.history = append(s.history, state.Event{Item: state.Item{Key: key, Revision: at}, Deleted: true})
}

// forget forgets what watches need that are not yet beyond revision.
func (s *Store) forget(revision state.Revision) {
	i := sort.Search(len(s.history), func(i int) bool { return s.history[i].Revision > revision })
	s.history = slices.Clone(s.history[i:])
	s.forgot = max(s.forgot, revision)
}

// Compact forgets history up to the present, as a store does in time: watches that have not
// seen it end.
func (s *Store) Compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(s.revision)
	s.wake()
}

// Watch tells what changes.
func (s *Store) Watch(ctx context.Context, prefix string, after state.Revision) <-chan state.Batch {
	out := make(chan state.Batch)
	go func() {
		defer close(out)
		for {
			b, changed := s.after(prefix, after)
			if b.Err == nil && len(b.Events) == 0 {
				select {
				case <-changed:
					continue
				case <-s.closed:
					b.Err = fault.Errorf("state.Watch", fault.Unavailable, "the store is closed")
				case <-ctx.Done():
					return
				}
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
			if b.Err != nil {
				return
			}
			after = b.Revision
		}
	}()
	return out
}

// after returns what changed below prefix after a revision, and what is closed when there
// may be more.
func (s *Store) after(prefix string, after state.Revision) (state.Batch, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if after < s.forgot {
		return state.Batch{Err: fault.Errorf("state.Watch", fault.Precondition, "what happened after revision %d is forgotten", after)}, nil
	}
	b := state.Batch{Revision: s.revision}
	i := sort.Search(len(s.history), func(i int) bool { return s.history[i].Revision > after })
	for _, e := range s.history[i:] {
		if strings.HasPrefix(e.Key, prefix) {
			b.Events = append(b.Events, state.Event{Item: e.Clone(), Deleted: e.Deleted})
		}
	}
	return b, s.changed
}

// Lead waits until who leads name.
func (s *Store) Lead(ctx context.Context, name, who string) (state.Leadership, error) {
	return state.Campaign(ctx, s, name, who)
}

// Close ends the watches and leases.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
		return nil
	default:
	}
	close(s.closed)
	for _, l := range s.leases {
		close(l.lost)
	}
	s.leases = nil
	return nil
}

// lease is a state.Lease. It lasts until it is closed: who would keep it alive and who
// would miss it are one process.
type lease struct {
	store *Store
	id    state.LeaseID
	keys  map[string]bool
	lost  chan struct{}
}

// Lease makes a lease.
func (s *Store) Lease(ctx context.Context, _ time.Duration) (state.Lease, error) {
	if err := s.check("state.Lease", ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastID++
	l := &lease{store: s, id: s.lastID, keys: map[string]bool{}, lost: make(chan struct{})}
	s.leases[l.id] = l
	return l, nil
}

// Put writes a key that goes away with the lease.
func (l *lease) Put(key string, value []byte) state.Op {
	return state.Op{Key: key, Does: state.DoesPut, Value: value, Lease: l.id}
}

// Lost is closed when the lease has ended.
func (l *lease) Lost() <-chan struct{} { return l.lost }

// Close ends the lease.
func (l *lease) Close() error {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[l.id] == nil {
		return nil
	}
	delete(s.leases, l.id)
	close(l.lost)
	var ops []state.Op
	for key := range l.keys {
		ops = append(ops, state.Delete(key, 0))
	}
	s.perform(ops)
	return nil
}

// Expire ends all leases, as if their holders had been silent for too long.
func (s *Store) Expire() {
	s.mu.Lock()
	var all []*lease
	for _, l := range s.leases {
		all = append(all, l)
	}
	s.mu.Unlock()
	for _, l := range all {
		_ = l.Close() // does not fail
	}
}
