package placement

import (
	"cmp"
	"iter"
	"slices"
)

// RebalanceOptions say how far a plan goes.
type RebalanceOptions struct {
	TolerancePercent float64 // above the mean of its class a pool may be: 5 when 0
	MovesMax         int     // 0 for no limit
}

// Move takes a replica from one pool to another.
type Move struct {
	Volume  string
	Replica string
	From    string
	To      string
	Bytes   int64 // to be copied
}

// Plan is what a rebalancing would do.
type Plan struct {
	Moves  []Move
	Before float64 // the fullest pool, as a multiple of the mean of its class
	After  float64
}

const triesMax = 256 // replicas of one pool that are looked at

// Rebalance plans moves: of replicas that share a zone with another one of their volume,
// where there is a zone that has none; then from pools that are fuller than the others of
// their class, until none is above the tolerance or nothing more can be done. A replica moves once at most;
// the moves of one volume must be made in order, one after the other. c is as before.
func (c *Cluster) Rebalance(volumes iter.Seq[Placed], o RebalanceOptions) Plan {
	b := balancer{Cluster: c.Clone(), limit: 1 + cmp.Or(o.TolerancePercent, 5)/100, moved: map[place]bool{}}
	b.average()
	heavy := b.heavy()
	b.index(volumes, heavy)
	plan := Plan{Before: b.worst()}
	for _, at := range b.crowded {
		if o.MovesMax > 0 && len(plan.Moves) >= o.MovesMax {
			break
		}
		if m, ok := b.part(at); ok {
			plan.Moves = append(plan.Moves, m)
		}
	}
	for _, p := range heavy {
		for b.pools[p].load > b.limit*b.mean[b.pools[p].Class] && (o.MovesMax == 0 || len(plan.Moves) < o.MovesMax) {
			m, ok := b.relieve(p)
			if !ok {
				break
			}
			plan.Moves = append(plan.Moves, m)
		}
	}
	plan.After = b.worst()
	return plan
}

type balancer struct {
	*Cluster
	volumes []Placed // with a replica in a heavy pool, or in a crowded zone
	crowded []place  // replicas that share a zone
	limit   float64
	mean    map[string]float64 // load by class
	in      map[int32][]place  // heavy pool -> what it holds, the biggest first
	moved   map[place]bool
}

type place struct{ volume, replica int }

// average finds the mean load of each class.
func (b *balancer) average() {
	b.mean = map[string]float64{}
	space := map[string]float64{}
	for _, p := range b.tier("").all {
		x := &b.pools[p]
		b.mean[x.Class] += x.load * float64(x.usable())
		space[x.Class] += float64(x.usable())
	}
	for class := range b.mean {
		b.mean[class] /= max(1, space[class])
	}
}

// index notes what the heavy pools hold.
func (b *balancer) index(volumes iter.Seq[Placed], heavy []int32) {
	b.in = make(map[int32][]place, len(heavy))
	for _, p := range heavy {
		b.in[p] = nil
	}
	for v := range volumes {
		kept := false
		for r, h := range v.Replicas {
			p, ok := b.poolOf[h.Pool]
			if !ok || h.Leaving {
				continue
			}
			if list, ok := b.in[p]; ok {
				b.in[p], kept = append(list, place{len(b.volumes), r}), true
			}
			if b.neighbours(v.Replicas, r, b.nodeOfPool(h.Pool)) > 0 {
				b.crowded, kept = append(b.crowded, place{len(b.volumes), r}), true
			}
		}
		if kept {
			v.Replicas = slices.Clone(v.Replicas)
			b.volumes = append(b.volumes, v)
		}
	}
	for _, list := range b.in {
		slices.SortStableFunc(list, func(x, y place) int {
			return cmp.Or(cmp.Compare(b.weight(y.volume), b.weight(x.volume)), cmp.Compare(b.volumes[x.volume].Volume.ID, b.volumes[y.volume].Volume.ID))
		})
	}
}

// weight is what a replica of the volume adds to a pool's load, in bytes.
func (b *balancer) weight(v int) float64 {
	return (3*float64(b.volumes[v].Volume.Used) + float64(b.volumes[v].Volume.Size)) / 4
}

// heavy returns the pools above the tolerance, the fullest first.
func (b *balancer) heavy() (list []int32) {
	for _, p := range b.tier("").all {
		if x := &b.pools[p]; x.load > b.limit*b.mean[x.Class] {
			list = append(list, p)
		}
	}
	slices.SortStableFunc(list, func(x, y int32) int {
		return cmp.Or(cmp.Compare(b.pools[y].load, b.pools[x].load), cmp.Compare(b.pools[x].ID, b.pools[y].ID))
	})
	return list
}

func (b *balancer) worst() (most float64) {
	for _, p := range b.tier("").all {
		if x := &b.pools[p]; b.mean[x.Class] > 0 {
			most = max(most, x.load/b.mean[x.Class])
		}
	}
	return most
}

// relieve moves one replica away from a pool: the biggest that is not far more than what
// is too much there, or else the smallest.
func (b *balancer) relieve(p int32) (Move, bool) {
	x := &b.pools[p]
	excess := (x.load - b.mean[x.Class]) * float64(x.usable())
	list := b.in[p]
	for tries, i := 0, 0; i < len(list) && tries < triesMax; i++ {
		if b.weight(list[i].volume) <= 2*excess {
			if m, ok := b.move(list[i], p); ok {
				return m, true
			}
			tries++
		}
	}
	for tries, at := range slices.Backward(list) {
		if len(list)-tries > triesMax {
			break
		}
		if m, ok := b.move(at, p); ok {
			return m, true
		}
	}
	return Move{}, false
}

// move moves one replica away from a pool, if that makes things better.
func (b *balancer) move(at place, p int32) (Move, bool) {
	v := &b.volumes[at.volume]
	h := v.Replicas[at.replica]
	if b.moved[at] || !h.InSync {
		return Move{}, false
	}
	to, ok := b.lighter(at, p)
	if !ok {
		return Move{}, false
	}
	return b.make(at, to), true
}

// make notes that a replica moves.
func (b *balancer) make(at place, to string) Move {
	v := &b.volumes[at.volume]
	h := v.Replicas[at.replica]
	b.moved[at] = true
	v.Replicas[at.replica].Pool = to
	b.Promise(h.Pool, v.Volume.Group, -v.Volume.Size)
	b.Use(h.Pool, b.pools[b.poolOf[h.Pool]].Used-v.Volume.Used)
	b.Promise(to, v.Volume.Group, v.Volume.Size)
	b.Use(to, b.pools[b.poolOf[to]].Used+v.Volume.Used)
	return Move{v.Volume.ID, h.Replica, h.Pool, to, v.Volume.Used}
}

// neighbours counts the volume's other replicas in the zone of a node.
func (c *Cluster) neighbours(held []Held, but int, node int32) (n int) {
	if node < 0 {
		return 0
	}
	for i, h := range held {
		if at := c.nodeOfPool(h.Pool); i != but && at >= 0 && !h.Leaving && c.nodes[at].zone == c.nodes[node].zone {
			n++
		}
	}
	return n
}

// part moves a replica to a zone that has fewer of its volume, if there is one.
func (b *balancer) part(at place) (Move, bool) {
	v := &b.volumes[at.volume]
	h := v.Replicas[at.replica]
	now := b.neighbours(v.Replicas, at.replica, b.nodeOfPool(h.Pool))
	if now == 0 || !h.InSync {
		return Move{}, false
	}
	r := b.request(at, b.poolOf[h.Pool])
	to, ok := b.find(r)
	if !ok || b.neighbours(v.Replicas, at.replica, b.nodeOfPool(to)) >= now {
		return Move{}, false
	}
	return b.make(at, to), true
}

// lighter finds a pool of the same class that is the better place for a replica, stays so
// with it, and is in no more crowded zone.
func (b *balancer) lighter(at place, from int32) (string, bool) {
	v := &b.volumes[at.volume]
	to, ok := b.find(b.request(at, from))
	if !ok || b.neighbours(v.Replicas, at.replica, b.nodeOfPool(to)) > b.neighbours(v.Replicas, at.replica, b.pools[from].node) {
		return "", false
	}
	x := &b.pools[b.poolOf[to]]
	after := x.load + b.weight(at.volume)/float64(max(1, x.usable()))
	return to, after < b.pools[from].load && after <= b.limit*b.mean[x.Class]
}

// request asks for another place for a replica, of the same class.
func (b *balancer) request(at place, from int32) Request {
	v := &b.volumes[at.volume]
	r := Request{Volume: v.Volume, Replicas: 1}
	r.Volume.Class = b.pools[from].Class
	for i, h := range v.Replicas {
		if i != at.replica {
			r.Held = append(r.Held, h.Pool)
		}
	}
	r.Avoid = []string{b.pools[from].ID}
	return r
}

// find is Choose for one replica, without an explanation.
func (c *Cluster) find(r Request) (string, bool) {
	q := c.ask(&r)
	p := c.pick(q)
	if p < 0 {
		return "", false
	}
	return c.pools[p].ID, true
}
