package simdisk

import "math/bits"

const (
	pageSize   = 4096 // unit of allocation and of copy-on-write
	sectorSize = 512  // unit that power loss keeps or loses whole
	sectors    = pageSize / sectorSize

	fanBits = 5
	fan     = 1 << fanBits
	// heightMax is the height of a tree that holds every page below 2^63 bytes.
	heightMax = 10
)

// stamp says who may change a page or a node in place: a tree that is edited with
// stamp s copies what carries any other. Stamps of a disk only grow, and sharing
// (by a sync or a clone) is followed by a new stamp on both sides, so what carries
// the current stamp is reachable from one tree only.
type stamp uint64

// page is one allocated block of a file.
type page struct {
	stamp stamp
	older *page // a version that was overwritten before it was synced, or nil
	data  [pageSize]byte
}

// reserved is every page that was allocated but not written. It is never changed.
var reserved = &page{}

// node is a part of a tree: kids in an inner node, pages in a leaf.
type node struct {
	stamp stamp
	used  int64 // pages below
	kids  []*node
	pages []*page
}

// full holds, by height, the node below which every page is reserved: a large
// allocation costs a few pointers.
var full = func() (nodes [heightMax + 1]*node) {
	for h := range nodes {
		n := newNode(h, 0)
		n.used = width(h)
		for i := range fan {
			if h == 0 {
				n.pages[i] = reserved
			} else {
				n.kids[i] = nodes[h-1]
			}
		}
		nodes[h] = n
	}
	return nodes
}()

// width is how many pages a node of the height can hold.
func width(height int) int64 { return 1 << (fanBits * (height + 1)) }

func newNode(height int, s stamp) *node {
	if height == 0 {
		return &node{stamp: s, pages: make([]*page, fan)}
	}
	return &node{stamp: s, kids: make([]*node, fan)}
}

// owned returns n when it carries s, else a copy that does; nil becomes an empty node.
func (n *node) owned(height int, s stamp) *node {
	if n == nil {
		return newNode(height, s)
	}
	if n.stamp == s {
		return n
	}
	c := newNode(height, s)
	c.used = n.used
	copy(c.kids, n.kids)
	copy(c.pages, n.pages)
	return c
}

func (n *node) count() int64 {
	if n == nil {
		return 0
	}
	return n.used
}

// tree is a sparse array of pages: a radix tree that is copied by copying this value,
// provided that both copies are then edited with new stamps.
type tree struct {
	root   *node
	height int
}

// used returns how many pages the tree holds.
func (t tree) used() int64 { return t.root.count() }

// get returns page i, or nil when it is a hole.
func (t tree) get(i int64) *page {
	if i >= width(t.height) {
		return nil
	}
	n := t.root
	for h := t.height; h > 0 && n != nil; h-- {
		n = n.kids[i>>(fanBits*h)&(fan-1)]
	}
	if n == nil {
		return nil
	}
	return n.pages[i&(fan-1)]
}

// reach makes the tree high enough for page i.
func (t *tree) reach(i int64, s stamp) {
	for i >= width(t.height) {
		t.height++
		if t.root != nil {
			root := newNode(t.height, s)
			root.used, root.kids[0] = t.root.used, t.root
			t.root = root
		}
	}
}

// set makes p page i; nil makes a hole.
func (t *tree) set(i int64, p *page, s stamp) {
	old := t.get(i)
	if old == p {
		return
	}
	var delta int64
	if p != nil {
		delta++
	}
	if old != nil {
		delta--
	}
	t.reach(i, s)
	t.root = t.root.set(t.height, i, p, delta, s)
}

func (n *node) set(height int, i int64, p *page, delta int64, s stamp) *node {
	n = n.owned(height, s)
	n.used += delta
	if height == 0 {
		n.pages[i&(fan-1)] = p
		return n
	}
	kid := &n.kids[i>>(fanBits*height)&(fan-1)]
	*kid = (*kid).set(height-1, i, p, delta, s)
	return n
}

// clear makes holes of pages from up to, not including, to.
func (t *tree) clear(from, to int64, s stamp) {
	if to = min(to, width(t.height)); from < to {
		t.root = t.root.clear(t.height, from, to, s)
	}
}

func (n *node) clear(height int, from, to int64, s stamp) *node {
	if n.count() == 0 || from <= 0 && to >= width(height) {
		return nil
	}
	n = n.owned(height, s)
	if height == 0 {
		for i := max(from, 0); i < min(to, fan); i++ {
			if n.pages[i] != nil {
				n.pages[i] = nil
				n.used--
			}
		}
		return n
	}
	w := width(height - 1)
	for k := max(from, 0) / w; k < fan && k*w < to; k++ {
		before := n.kids[k].count()
		n.kids[k] = n.kids[k].clear(height-1, from-k*w, to-k*w, s)
		n.used += n.kids[k].count() - before
	}
	return n
}

// fill reserves the holes among pages from up to, not including, to.
func (t *tree) fill(from, to int64, s stamp) {
	if from < to {
		t.reach(to-1, s)
		t.root = t.root.fill(t.height, from, to, s)
	}
}

func (n *node) fill(height int, from, to int64, s stamp) *node {
	w := width(height)
	if n.count() == w {
		return n
	}
	if n.count() == 0 && from <= 0 && to >= w {
		return full[height]
	}
	n = n.owned(height, s)
	if height == 0 {
		for i := max(from, 0); i < min(to, fan); i++ {
			if n.pages[i] == nil {
				n.pages[i] = reserved
				n.used++
			}
		}
		return n
	}
	w = width(height - 1)
	for k := max(from, 0) / w; k < fan && k*w < to; k++ {
		before := n.kids[k].count()
		n.kids[k] = n.kids[k].fill(height-1, from-k*w, to-k*w, s)
		n.used += n.kids[k].count() - before
	}
	return n
}

// usedIn counts the pages from up to, not including, to.
func (t tree) usedIn(from, to int64) int64 {
	return t.root.usedIn(t.height, from, min(to, width(t.height)))
}

func (n *node) usedIn(height int, from, to int64) (used int64) {
	if n == nil || from >= to {
		return 0
	}
	if from <= 0 && to >= width(height) {
		return n.used
	}
	if height == 0 {
		for i := max(from, 0); i < min(to, fan); i++ {
			if n.pages[i] != nil {
				used++
			}
		}
		return used
	}
	w := width(height - 1)
	for k := max(from, 0) / w; k < fan && k*w < to; k++ {
		used += n.kids[k].usedIn(height-1, from-k*w, to-k*w)
	}
	return used
}

// each calls f for every page, in order.
func (t tree) each(f func(i int64, p *page)) {
	differ(tree{height: t.height}, t, func(i int64, _, p *page) { f(i, p) })
}

// differ calls f, in order, for every page that is not the same one in a and b; it
// costs nothing for what they share.
func differ(a, b tree, f func(i int64, a, b *page)) {
	height := max(a.height, b.height)
	a.reach(width(height)-1, 0)
	b.reach(width(height)-1, 0)
	differNodes(a.root, b.root, height, 0, f)
}

func differNodes(a, b *node, height int, start int64, f func(i int64, a, b *page)) {
	if a == b {
		return
	}
	for k := range fan {
		if height > 0 {
			differNodes(a.kid(k), b.kid(k), height-1, start+int64(k)*width(height-1), f)
		} else if x, y := a.page(k), b.page(k); x != y {
			f(start+int64(k), x, y)
		}
	}
}

func (n *node) kid(k int) *node {
	if n == nil {
		return nil
	}
	return n.kids[k]
}

func (n *node) page(k int) *page {
	if n == nil {
		return nil
	}
	return n.pages[k]
}

// nth returns the index of the n-th page, in order from 0; there must be one.
func (t tree) nth(n int64) (i int64) {
	at := t.root
	for h := t.height; h > 0; h-- {
		for k, kid := range at.kids {
			if n < kid.count() {
				i, at = i|int64(k)<<(fanBits*h), kid
				break
			}
			n -= kid.count()
		}
	}
	var mask uint64
	for k, p := range at.pages {
		if p != nil {
			mask |= 1 << k
		}
	}
	for ; n > 0; n-- {
		mask &= mask - 1
	}
	return i | int64(bits.TrailingZeros64(mask))
}
