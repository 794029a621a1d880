package statetest

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

const ttl = 10 * time.Second

func (r *rig) lease() state.Lease {
	r.Helper()
	l, err := r.s.Lease(r.ctx, ttl)
	if err != nil {
		r.Fatal(err)
	}
	return l
}

// deleted waits until the key is gone after a revision.
func (r *rig) deleted(key string, after state.Revision) {
	r.Helper()
	w := &watch{c: r.s.Watch(r.ctx, key, after)}
	for e := r.next(w); !e.Deleted; e = r.next(w) {
	}
}

func leases(r *rig) {
	l := r.lease()
	at := r.commit(l.Put("/t/a", b("1")), l.Put("/t/b", b("1")), state.Put("/t/c", b("1")))
	r.want("/t/a", "1")
	at2 := r.commit(state.Put("/t/b", b("2"))) // not under the lease any more
	if err := l.Close(); err != nil {
		r.Fatal(err)
	}
	await(r, l.Lost(), "the closed lease to be lost")
	r.deleted("/t/a", at)
	r.want("/t/b", "2")
	r.want("/t/c", "1")
	if err := l.Close(); err != nil {
		r.Fatalf("the second Close: %v", err)
	}
	if it, err := r.s.Get(r.ctx, "/t/b"); err != nil || it.Revision != at2 {
		r.Fatalf("%+v, %v", it, err)
	}
}

func lostLease(r *rig) {
	l := r.lease()
	at := r.commit(l.Put("/t/a", b("1")))
	r.Expire()
	r.deleted("/t/a", at)
	await(r, l.Lost(), "the lease to be lost")
	_ = l.Close() // there is nothing to close
}

func deadLease(r *rig) {
	l := r.lease()
	r.Expire()
	r.refused(fault.Busy, l.Put("/t/a", b("1")))
	r.want("/t/a", "-")
	_ = l.Close() // there is nothing to close
}

func (r *rig) lead(s state.Store, who string) state.Leadership {
	r.Helper()
	l, err := s.Lead(r.ctx, "test", who)
	if err != nil {
		r.Fatal(err)
	}
	return l
}

func leads(r *rig) {
	if _, err := state.Leader(r.ctx, r.s, "test"); !fault.Is(err, fault.NotFound) {
		r.Fatalf("Leader: %v", err)
	}
	one := r.lead(r.s, "one")
	other := r.Again()
	second := make(chan state.Leadership)
	go func() {
		l, err := other.Lead(r.ctx, "test", "two")
		if err != nil {
			r.Error(err)
		}
		second <- l
	}()
	r.commit(one.Op(), state.Put("/t/a", b("1")))
	if who, err := state.Leader(r.ctx, r.s, "test"); err != nil || who != "one" {
		r.Fatalf("%q leads, %v", who, err)
	}
	select {
	case <-second:
		r.Fatal("two leaders")
	default:
	}
	if err := one.Resign(); err != nil {
		r.Fatal(err)
	}
	two := await(r, second, "the second leader")
	r.commit(two.Op(), state.Put("/t/a", b("2")))
	r.refused(fault.Busy, one.Op(), state.Put("/t/a", b("3")))
	await(r, one.Lost(), "the first leader to know")
	if err := two.Resign(); err != nil {
		r.Fatal(err)
	}
}

func deposed(r *rig) {
	one := r.lead(r.s, "one")
	r.Expire()
	two := r.lead(r.Again(), "two")
	await(r, one.Lost(), "the first leader to know")
	r.refused(fault.Busy, one.Op(), state.Put("/t/a", b("1")))
	r.commit(two.Op(), state.Put("/t/a", b("2")))
	_ = two.Resign() // so that the next test has none
}

func leadEnds(r *rig) {
	one := r.lead(r.s, "one")
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error)
	go func() {
		_, err := r.s.Lead(ctx, "test", "two")
		done <- err
	}()
	cancel()
	if err := await(r, done, "Lead to end"); !fault.Is(err, fault.Canceled) {
		r.Fatalf("Lead: %v", err)
	}
	_ = one.Resign() // so that the next test has none
}

func keepsThere(r *rig) {
	ctx, cancel := context.WithCancel(r.ctx)
	told, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		state.KeepThere(ctx, r.s, state.Item{Key: "/t/a", Value: b("me")}, ttl, func(err error) { told <- err })
	}()
	for range 2 {
		if err := await(r, told, "the key"); err != nil {
			r.Fatal(err)
		}
		r.want("/t/a", "me")
		r.Expire()
	}
	if err := await(r, told, "the key"); err != nil {
		r.Fatal(err)
	}
	cancel()
	await(r, ended, "the end")
	r.want("/t/a", "-")
}

// nodes is a table below the prefix that tests may use.
var nodes = state.Table[*v1.Node]{Prefix: "/t/nodes/"}

func node(name, zone string) *v1.Node {
	return &v1.Node{Meta: &v1.Meta{Name: name}, Spec: &v1.NodeSpec{Zone: zone}}
}

func byZone(e state.Entry[*v1.Node]) []string { return []string{e.Value.GetSpec().GetZone()} }

func (r *rig) mirror() *state.Mirror[*v1.Node] {
	m := state.NewMirror(r.ctx, r.s, nodes, map[string]state.Index[*v1.Node]{"zone": byZone})
	await(r, m.Ready(), "the mirror")
	return m
}

func (r *rig) reach(m *state.Mirror[*v1.Node], rev state.Revision) {
	r.Helper()
	if err := m.Reach(r.ctx, rev); err != nil {
		r.Fatal(err)
	}
}

// mirrored compares what the mirror has with names.
func (r *rig) mirrored(list []state.Entry[*v1.Node], names ...string) {
	r.Helper()
	var got []string
	for _, e := range list {
		got = append(got, e.Value.GetMeta().GetName())
		if e.Value.GetMeta().GetRevision() != int64(e.Revision) {
			r.Fatalf("the object says revision %d, the entry %d", e.Value.GetMeta().GetRevision(), e.Revision)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(names) {
		r.Fatalf("the mirror has %v, want %v", got, names)
	}
}

func mirrors(r *rig) {
	at := r.commit(nodes.Create("1", node("a", "x")), nodes.Create("2", node("b", "x")))
	m := r.mirror()
	r.mirrored(m.List(), "a", "b")
	feed := m.Feed()
	if got := feed.Take(); len(got) != 2 {
		r.Fatalf("the feed begins with %v", got)
	}
	e, err := nodes.Get(r.ctx, r.s, "1")
	if err != nil || e.Revision != at {
		r.Fatalf("%+v, %v", e, err)
	}
	changed := m.Changed()
	r.reach(m, r.commit(nodes.Replace("1", node("c", "y"), e.Revision), nodes.Create("3", node("d", "y")), nodes.Delete("2", 0)))
	await(r, changed, "the change")
	r.mirrored(m.List(), "c", "d")
	r.mirrored(m.ByIndex("zone", "x"))
	r.mirrored(m.ByIndex("zone", "y"), "c", "d")
	await(r, feed.Some(), "the feed")
	if got := feed.Take(); fmt.Sprint(got) != "[1 2 3]" {
		r.Fatalf("the feed has %v", got)
	}
	if _, ok := m.Get("2"); ok || m.Len() != 2 || m.Err() != nil {
		r.Fatalf("%d entries, %v", m.Len(), m.Err())
	}
}

func mirrorsAgain(r *rig) {
	r.commit(nodes.Create("1", node("a", "x")), nodes.Create("2", node("b", "x")))
	s := &severed{Store: r.s, cut: make(chan struct{})}
	m := state.NewMirror(r.ctx, s, nodes, map[string]state.Index[*v1.Node]{"zone": byZone})
	await(r, m.Ready(), "the mirror")
	feed := m.Feed()
	feed.Take()
	at := r.commit(nodes.Delete("1", 0), nodes.Create("3", node("c", "y")))
	close(s.cut)
	r.reach(m, at)
	r.mirrored(m.List(), "b", "c")
	r.mirrored(m.ByIndex("zone", "x"), "b")
	await(r, feed.Some(), "the feed")
	if got := feed.Take(); fmt.Sprint(got) != "[1 3]" {
		r.Fatalf("the feed has %v", got)
	}
}

// severed is a store whose first watch hears nothing and ends when it is cut.
type severed struct {
	state.Store
	once sync.Once
	cut  chan struct{}
}

// Watch watches, the first time in vain.
func (s *severed) Watch(ctx context.Context, prefix string, after state.Revision) (c <-chan state.Batch) {
	c = nil
	s.once.Do(func() {
		ends := make(chan state.Batch)
		go func() {
			<-s.cut
			ends <- state.Batch{Err: fault.Errorf("severed", fault.Precondition, "cut")}
			close(ends)
		}()
		c = ends
	})
	if c == nil {
		c = s.Store.Watch(ctx, prefix, after)
	}
	return c
}

func contention(r *rig) {
	const workers, each = 4, 10
	r.commit(state.Put("/t/n", b("0")))
	increment := func(s state.Store) error {
		for {
			it, err := s.Get(r.ctx, "/t/n")
			if err != nil {
				return err
			}
			n, _ := strconv.Atoi(string(it.Value))
			_, err = s.Commit(r.ctx, state.Replace("/t/n", b(strconv.Itoa(n+1)), it.Revision))
			if !fault.Is(err, fault.Busy) {
				return err
			}
		}
	}
	var group sync.WaitGroup
	for range workers {
		s := r.Again()
		group.Go(func() {
			for range each {
				if err := increment(s); err != nil {
					r.Error(err)
				}
			}
		})
	}
	group.Wait()
	r.want("/t/n", strconv.Itoa(workers*each))
}
