package server

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec/selector"
	"github.com/holdfast-io/holdfast/internal/state"
)

// find returns an object by id or name. What isn't in memory may have been created on
// another server a moment ago: then the store is asked.
func find[T named](ctx context.Context, s *Server, t state.Table[T], m *state.Mirror[T], kind, ref string) (state.Entry[T], error) {
	if ref == "" {
		return state.Entry[T]{}, invalid(kind, "give the name or the id of a "+kind, "it is empty")
	}
	if e, ok := m.Get(ref); ok {
		return e, nil
	}
	if list := m.ByIndex(byName, ref); len(list) > 0 {
		return newest(list), nil
	}
	if s.view.stale() == nil {
		if e, err := s.fresh(ctx, kind, ref); err == nil {
			return t.Get(ctx, s.store, e)
		}
		if e, err := t.Get(ctx, s.store, ref); err == nil {
			return e, nil
		}
	}
	return state.Entry[T]{}, fault.WithCure(fault.Errorf("server", fault.NotFound, "there is no %s %q", kind, ref), "see which there are: holdfast "+kind+" list")
}

// fresh returns the id that the store has under a name.
func (s *Server) fresh(ctx context.Context, kind, name string) (string, error) {
	if len(name) > nameMax {
		return "", fault.Errorf("server", fault.NotFound, "no object has so long a name")
	}
	item, err := s.store.Get(ctx, state.NameKey(kind, name))
	return string(item.Value), err
}

// newest prefers, of several of a name, one that isn't in the trash, then the newest.
func newest[T named](list []state.Entry[T]) state.Entry[T] {
	return slices.MaxFunc(list, func(a, b state.Entry[T]) int {
		if d := cmp.Compare(rank(a.Value), rank(b.Value)); d != 0 {
			return d
		}
		return a.Value.GetMeta().GetCreated().AsTime().Compare(b.Value.GetMeta().GetCreated().AsTime())
	})
}

func rank(o named) int {
	v, ok := o.(*v1.Volume)
	switch {
	case ok && v.GetSpec().GetDeleting():
		return 0
	case ok && v.GetSpec().GetDeleted() != nil:
		return 1
	}
	return 2
}

func (s *Server) findNode(ctx context.Context, ref string) (state.Entry[*v1.Node], error) {
	return find(ctx, s, state.Nodes, s.view.nodes, state.KindNode, ref)
}

func (s *Server) findPool(ctx context.Context, ref string) (state.Entry[*v1.Pool], error) {
	return find(ctx, s, state.Pools, s.view.pools, state.KindPool, ref)
}

func (s *Server) findVolume(ctx context.Context, ref string) (state.Entry[*v1.Volume], error) {
	return find(ctx, s, state.Volumes, s.view.volumes, state.KindVolume, ref)
}

func (s *Server) findSnapshot(ctx context.Context, ref string) (state.Entry[*v1.Snapshot], error) {
	return find(ctx, s, state.Snapshots, s.view.snapshots, state.KindSnapshot, ref)
}

func (s *Server) findPolicy(ctx context.Context, ref string) (state.Entry[*v1.SnapshotPolicy], error) {
	return find(ctx, s, state.Policies, s.view.policies, state.KindPolicy, ref)
}

// usable is findVolume for changes: what is in the trash, or on its way out, is refused.
func (s *Server) usableVolume(ctx context.Context, ref string) (state.Entry[*v1.Volume], error) {
	e, err := s.findVolume(ctx, ref)
	if err != nil {
		return e, err
	}
	return e, usable(e.Value)
}

func usable(v *v1.Volume) error {
	name := v.GetMeta().GetName()
	switch {
	case v.GetSpec().GetDeleting():
		return fault.Errorf("server", fault.Precondition, "volume %s is being deleted for good", name)
	case v.GetSpec().GetDeleted() != nil:
		return fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is in the trash", name), "restore it: holdfast volume restore "+name)
	}
	return nil
}

// Sizes of pages.
const (
	pageDefault = 100
	pageMax     = 1000
)

// page returns the part of items, which are sorted by key, that a request asks for, and
// the token of the next.
func page[T any](items []T, size int32, token string, key func(T) string) ([]T, string, error) {
	if size < 0 {
		return nil, "", invalid("page_size", "leave it out, or give a number up to 1000", "%d is negative", size)
	}
	if size == 0 {
		size = pageDefault
	}
	size = min(size, pageMax)
	if token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		after, ours := strings.CutPrefix(string(raw), pageMark)
		if err != nil || !ours {
			return nil, "", invalid("page_token", "take the one from the page before, unchanged, or begin without one", "%q is no token of a page", token)
		}
		at, found := slices.BinarySearchFunc(items, after, func(item T, after string) int { return cmp.Compare(key(item), after) })
		if found {
			at++
		}
		items = items[at:]
	}
	if len(items) <= int(size) {
		return items, "", nil
	}
	items = items[:size]
	return items, base64.RawURLEncoding.EncodeToString([]byte(pageMark + key(items[size-1]))), nil
}

// pageMark tells our tokens from anything else.
const pageMark = "p1:"

// sortedBy sorts items by key and returns them.
func sortedBy[T any](items []T, key func(T) string) []T {
	slices.SortFunc(items, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
	return items
}

// nameKey sorts objects by name.
func nameKey[T named](o T) string { return o.GetMeta().GetName() + "\x00" + o.GetMeta().GetId() }

// newestFirst makes a key that sorts the newest first.
func newestFirst(nanos int64, id string) string { return fmt.Sprintf("%020d-%s", 1<<62-nanos, id) }

// parseSelector reads the labels that a list is limited to.
func parseSelector(text string) (selector.Selector, error) {
	s, err := selector.Parse(text)
	if err != nil {
		return nil, invalid("selector", "write one such as app=db,tier!=test,zone in (a,b),!old", "%w", err)
	}
	return s, nil
}
