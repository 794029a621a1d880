package state

import (
	"context"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Table is the keys below a prefix, whose values are messages of one type. A message that
// has a field revision, itself or in its meta, has it set when it is read.
type Table[T proto.Message] struct {
	Prefix string // ends with a slash
}

// Entry is a message in a table.
type Entry[T proto.Message] struct {
	ID       string // the key without the table's prefix
	Value    T
	Revision Revision
}

// Change is an entry that was written, or, if Deleted, the id of one that is gone.
type Change[T proto.Message] struct {
	Entry[T]
	Deleted bool
}

// Changes are what changed in a table, like Batch.
type Changes[T proto.Message] struct {
	Revision Revision
	Changes  []Change[T]
	Err      error
}

// Key returns the key of an entry.
func (t Table[T]) Key(id string) string { return t.Prefix + id }

// Get returns an entry; fault.NotFound when there is none.
func (t Table[T]) Get(ctx context.Context, s Store, id string) (Entry[T], error) {
	item, err := s.Get(ctx, t.Key(id))
	if err != nil {
		return Entry[T]{}, err
	}
	return t.Decode(item)
}

// List returns all entries, as of one revision.
func (t Table[T]) List(ctx context.Context, s Store) ([]Entry[T], Revision, error) {
	items, revision, err := s.List(ctx, t.Prefix)
	if err != nil {
		return nil, 0, err
	}
	entries := make([]Entry[T], 0, len(items))
	for _, item := range items {
		e, err := t.Decode(item)
		if err != nil {
			return nil, 0, err
		}
		entries = append(entries, e)
	}
	return entries, revision, nil
}

// Watch is Store.Watch of the table.
func (t Table[T]) Watch(ctx context.Context, s Store, after Revision) <-chan Changes[T] {
	out := make(chan Changes[T])
	go func() {
		defer close(out)
		for b := range s.Watch(ctx, t.Prefix, after) {
			select {
			case out <- t.changes(b):
			case <-ctx.Done(): // the store closes its channel for the same reason
			}
		}
	}()
	return out
}

func (t Table[T]) changes(b Batch) Changes[T] {
	c := Changes[T]{Revision: b.Revision, Err: b.Err}
	for _, ev := range b.Events {
		if ev.Deleted {
			e := Entry[T]{ID: strings.TrimPrefix(ev.Key, t.Prefix), Revision: ev.Revision}
			c.Changes = append(c.Changes, Change[T]{Entry: e, Deleted: true})
			continue
		}
		e, err := t.Decode(ev.Item)
		if err != nil {
			return Changes[T]{Err: err}
		}
		c.Changes = append(c.Changes, Change[T]{Entry: e})
	}
	return c
}

// Create puts an entry that must not exist.
func (t Table[T]) Create(id string, v T) Op { return t.op(Create(t.Key(id), nil), v) }

// Put puts an entry, whatever is there.
func (t Table[T]) Put(id string, v T) Op { return t.op(Put(t.Key(id), nil), v) }

// Replace puts an entry in the place of the one that was read at the revision.
func (t Table[T]) Replace(id string, v T, revision Revision) Op {
	return t.op(Replace(t.Key(id), nil, revision), v)
}

// Delete deletes the entry that was read at the revision, or, with 0, whatever is there.
func (t Table[T]) Delete(id string, revision Revision) Op { return Delete(t.Key(id), revision) }

// Require is the condition that the entry is as it was at the revision; with 0, that there
// is none.
func (t Table[T]) Require(id string, revision Revision) Op { return Require(t.Key(id), revision) }

func (t Table[T]) op(op Op, v T) Op {
	var err error
	if op.Value, err = (proto.MarshalOptions{Deterministic: true}).Marshal(v); err != nil {
		op.Err = fault.E("state.Table", fault.Invalid, block.VolumeID{}, err)
	}
	return op
}

// Decode reads an item of the table; fault.Corrupt when it is no such message.
func (t Table[T]) Decode(item Item) (Entry[T], error) {
	var none T
	v := none.ProtoReflect().New().Interface().(T)
	if err := proto.Unmarshal(item.Value, v); err != nil {
		return Entry[T]{}, fault.Errorf("state.Table", fault.Corrupt, "%s is no %s: %w",
			item.Key, none.ProtoReflect().Descriptor().FullName(), err)
	}
	stamp(v.ProtoReflect(), item.Revision)
	return Entry[T]{ID: strings.TrimPrefix(item.Key, t.Prefix), Value: v, Revision: item.Revision}, nil
}

// stamp sets the field revision of a message or of its meta.
func stamp(m protoreflect.Message, revision Revision) {
	fields := m.Descriptor().Fields()
	if f := fields.ByName("revision"); f != nil && f.Kind() == protoreflect.Int64Kind {
		m.Set(f, protoreflect.ValueOfInt64(int64(revision)))
	}
	if f := fields.ByName("meta"); f != nil && f.Kind() == protoreflect.MessageKind && m.Has(f) {
		stamp(m.Mutable(f).Message(), revision)
	}
}
