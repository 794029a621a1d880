package placement

import "slices"

// What a decision may cost. A list up to scanMax long is looked at whole; of a longer
// one, drawsMax are drawn until drawnEnough of them would do.
const (
	scanMax     = 16
	drawsMax    = 36
	drawnEnough = 12
	zonesMax    = 64 // more zones are not weighed one by one
	hugePart    = 50 // a volume that takes more of a pool than this part of it
	hugeScale   = 8  // is worth so many times the draws
)

// query is a request with its names looked up.
type query struct {
	*Request
	nodes   []int32 // that alone may be chosen, when named
	zones   []int32
	named   bool            // nodes were named
	zoned   bool            // zones were named
	only    []int32         // pools that alone may be chosen
	taken   []int32         // nodes that hold a replica, or are to be avoided
	counted []int32         // nodes that count for the spread
	group   map[int32]int32 // nodes of the group
	open    [][]int32       // zones that are drawn from
	hash    uint64
}

// Choose returns a pool for each replica that is asked for, or a *Refusal. It promises
// nothing yet.
func (c *Cluster) Choose(r Request) ([]string, error) {
	q := c.ask(&r)
	var chosen []string
	for i := range r.Replicas {
		q.hash = mix(q.hash + uint64(i))
		p := c.preferred(q)
		if p < 0 {
			p = c.pick(q)
		}
		if p < 0 {
			return nil, c.refuse(q, i)
		}
		chosen = append(chosen, c.pools[p].ID)
		q.taken = append(q.taken, c.pools[p].node)
		q.counted = append(q.counted, c.pools[p].node)
	}
	return chosen, nil
}

// ask looks up the names in a request, in the memory of the one before.
func (c *Cluster) ask(r *Request) *query {
	q := &c.query
	*q = query{Request: r, nodes: q.nodes[:0], zones: q.zones[:0], only: q.only[:0], taken: q.taken[:0], counted: q.counted[:0], open: q.open[:0],
		named: len(r.Volume.Nodes) > 0, zoned: len(r.Volume.Zones) > 0, hash: hashOf(r.Volume.ID)}
	for _, id := range r.Held {
		if n := c.nodeOfPool(id); n >= 0 {
			q.taken, q.counted = append(q.taken, n), append(q.counted, n)
		}
	}
	for _, id := range r.Avoid {
		if n := c.nodeOfPool(id); n >= 0 {
			q.taken = append(q.taken, n)
		}
	}
	for _, id := range r.Only {
		if p, ok := c.poolOf[id]; ok {
			q.only = append(q.only, p)
		}
	}
	if q.named {
		for i := range c.nodes {
			if n := &c.nodes[i]; !n.gone && (slices.Contains(r.Volume.Nodes, n.Name) || slices.Contains(r.Volume.Nodes, n.ID)) {
				q.nodes = append(q.nodes, int32(i))
			}
		}
	}
	for _, name := range r.Volume.Zones {
		if z, ok := c.zones.of[name]; ok {
			q.zones = append(q.zones, z)
		}
	}
	if r.Volume.GroupPolicy != Indifferent {
		q.group = c.groups[r.Volume.Group]
	}
	return q
}

func (c *Cluster) nodeOfPool(id string) int32 {
	if p, ok := c.poolOf[id]; ok {
		return c.pools[p].node
	}
	return -1
}

// preferred finds a pool for the first replica on the node that is preferred, or returns -1.
func (c *Cluster) preferred(q *query) int32 {
	if q.Volume.Prefer == "" || len(q.counted) > 0 || q.Volume.GroupPolicy == Affinity && len(q.group) > 0 {
		return -1
	}
	n, ok := c.nodeOf[q.Volume.Prefer]
	if !ok {
		if n = int32(slices.IndexFunc(c.nodes, func(n node) bool { return !n.gone && n.Name == q.Volume.Prefer })); n < 0 {
			return -1
		}
	}
	return c.best(q, c.nodes[n].pools).pool
}

// pick finds a pool for one replica, or -1.
func (c *Cluster) pick(q *query) int32 {
	switch {
	case q.Only != nil:
		return c.best(q, q.only).pool
	case q.Volume.GroupPolicy == Affinity && len(q.group) > 0:
		b := none
		for n := range q.group { // the best of all: no order comes into it
			b = c.better(b, c.best(q, c.nodes[n].pools))
		}
		if b.pool >= 0 {
			return b.pool
		}
	}
	if q.named {
		b := none
		for _, n := range q.nodes {
			b = c.better(b, c.best(q, c.nodes[n].pools))
		}
		return b.pool
	}
	t := c.tier(q.Volume.Class)
	for crowd := 0; crowd <= len(q.counted); crowd++ {
		if b := c.draw(q, t, crowd); b.pool >= 0 {
			return b.pool
		}
	}
	return -1
}

// draw finds a pool in one of the zones that hold exactly crowd replicas already.
func (c *Cluster) draw(q *query, t *tier, crowd int) candidate {
	if len(t.zones) > zonesMax && !q.zoned {
		return c.drawFrom(q, len(t.all), crowd, func(i int) int32 { return t.all[i] })
	}
	open, total := q.open[:0], 0
	for z, list := range t.zones {
		if len(list) > 0 && c.crowd(q, int32(z)) == crowd && (!q.zoned || slices.Contains(q.zones, int32(z))) {
			open = append(open, list)
			total += len(list)
		}
	}
	q.open = open
	return c.drawFrom(q, total, crowd, func(i int) int32 {
		for _, list := range q.open {
			if i < len(list) {
				return list[i]
			}
			i -= len(list)
		}
		return -1
	})
}

// drawFrom finds a pool among the total that at numbers.
func (c *Cluster) drawFrom(q *query, total, crowd int, at func(int) int32) candidate {
	b := none
	consider := func(p int32) bool {
		if c.crowd(q, c.nodes[c.pools[p].node].zone) != crowd || c.why(q, p) != fine {
			return false
		}
		b = c.better(b, c.weighed(q, p))
		return true
	}
	if total > scanMax {
		h, found, scale := q.hash, 0, 1
		for draws := 0; draws < drawsMax*scale; draws++ {
			h = mix(h)
			p := at(int(h % uint64(total)))
			if q.Volume.Size > c.pools[p].usable()/hugePart {
				scale = hugeScale
			}
			if consider(p) {
				if found++; found == drawnEnough*scale {
					return b
				}
			}
		}
		if found > 0 {
			return b
		}
	}
	for i := range total {
		consider(at(i))
	}
	return b
}

// crowd counts the replicas in a zone.
func (c *Cluster) crowd(q *query, zone int32) (n int) {
	for _, i := range q.counted {
		if c.nodes[i].zone == zone {
			n++
		}
	}
	return n
}

// candidate is a pool that would do, and what speaks against it.
type candidate struct {
	pool   int32
	zoned  int     // replicas in its zone
	racked int     // and in its rack
	load   float64 // with the replica
	lot    uint64  // decides between equals
}

var none = candidate{pool: -1}

func (c *Cluster) weighed(q *query, p int32) candidate {
	x := &c.pools[p]
	n := &c.nodes[x.node]
	w := candidate{pool: p, load: c.loadWith(p, &q.Volume), lot: mix(q.hash ^ uint64(p))}
	for _, i := range q.counted {
		if c.nodes[i].zone == n.zone {
			w.zoned++
		}
		if c.nodes[i].rack == n.rack {
			w.racked++
		}
	}
	return w
}

func (c *Cluster) better(a, b candidate) candidate {
	switch {
	case a.pool < 0:
		return b
	case b.pool < 0:
		return a
	case a.zoned != b.zoned:
		return pickIf(a.zoned < b.zoned, a, b)
	case a.racked != b.racked:
		return pickIf(a.racked < b.racked, a, b)
	case a.load != b.load:
		return pickIf(a.load < b.load, a, b)
	}
	return pickIf(a.lot <= b.lot, a, b)
}

func pickIf(first bool, a, b candidate) candidate {
	if first {
		return a
	}
	return b
}

// best is the best of a short list.
func (c *Cluster) best(q *query, list []int32) candidate {
	b := none
	for _, p := range list {
		if c.pools[p].node >= 0 && c.why(q, p) == fine {
			b = c.better(b, c.weighed(q, p))
		}
	}
	return b
}

// mix is the step of splitmix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// hashOf is FNV-1a.
func hashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
