package simdisk

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// modelled is a tree and what it should hold.
type modelled struct {
	tree  tree
	pages map[int64]*page
	stamp stamp
}

func (m *modelled) edit(r *rand.Rand, limit int64) {
	from := r.Int64N(limit)
	to := from + 1 + r.Int64N(min(limit-from, 1<<r.IntN(12)))
	switch r.IntN(4) {
	case 0:
		m.tree.clear(from, to, m.stamp)
		for i := from; i < to; i++ {
			delete(m.pages, i)
		}
	case 1:
		m.tree.fill(from, to, m.stamp)
		for i := from; i < to; i++ {
			if m.pages[i] == nil {
				m.pages[i] = reserved
			}
		}
	default:
		p := &page{stamp: m.stamp}
		m.tree.set(from, p, m.stamp)
		m.pages[from] = p
	}
}

func (m *modelled) check(t *testing.T, r *rand.Rand, limit int64) {
	t.Helper()
	var order []int64
	m.tree.each(func(i int64, p *page) {
		order = append(order, i)
		if m.pages[i] != p {
			t.Fatalf("page %d is not what was set", i)
		}
	})
	if want := slices.Sorted(maps.Keys(m.pages)); !slices.Equal(order, want) || m.tree.used() != int64(len(want)) {
		t.Fatalf("holds %d pages and counts %d, want %d", len(order), m.tree.used(), len(want))
	}
	if len(order) > 0 {
		if n := r.IntN(len(order)); m.tree.nth(int64(n)) != order[n] {
			t.Fatalf("page %d in order is %d, want %d", n, m.tree.nth(int64(n)), order[n])
		}
	}
	from, to := r.Int64N(limit), r.Int64N(2*limit)
	want := int64(0)
	for _, i := range order {
		if i >= from && i < to {
			want++
		}
	}
	if got := m.tree.usedIn(from, to); got != want {
		t.Fatalf("%d pages from %d to %d, want %d", got, from, to, want)
	}
	if i := r.Int64N(limit); m.tree.get(i) != m.pages[i] {
		t.Fatalf("page %d is wrong", i)
	}
}

func TestTreeHoldsWhatItsModelHoldsAndCopiesStayApart(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 0))
		limit := int64(1) << (3 + r.IntN(13))
		all := []*modelled{{pages: map[int64]*page{}, stamp: 1}}
		for step := range 300 {
			m := all[r.IntN(len(all))]
			m.edit(r, limit)
			if step%10 == 0 {
				m.check(t, r, limit)
			}
			if step%40 == 0 {
				m.stamp++
				c := *m
				c.pages = maps.Clone(m.pages)
				all = append(all, &c)
			}
		}
		for _, m := range all {
			m.check(t, r, limit)
		}
		a, b := all[0], all[1]
		different := 0
		differ(a.tree, b.tree, func(i int64, x, y *page) {
			if different++; x == y || x != a.pages[i] || y != b.pages[i] {
				t.Fatalf("page %d is not what differs", i)
			}
		})
		for i := range limit {
			if a.pages[i] != b.pages[i] {
				different--
			}
		}
		if different != 0 {
			t.Fatalf("differences counted wrong by %d", different)
		}
	}
}

func TestReservingAWholeDiskIsCheap(t *testing.T) {
	var m image
	m.pages.fill(1, pagesMax/8, 1)
	if got := m.pages.used(); got != pagesMax/8-1 {
		t.Errorf("%d pages, want %d", got, int64(pagesMax/8-1))
	}
	m.pages.clear(7, pagesMax, 1)
	if got := m.pages.used(); got != 6 {
		t.Errorf("%d pages, want 6", got)
	}
}
