package placement

import "slices"

// Held is a replica that a volume has.
type Held struct {
	Replica string
	Pool    string
	InSync  bool
	Leaving bool // it is to go
	Near    bool // on the node where the volume is in use
}

// Drop returns which of a volume's replicas can be spared best: one that does not count
// before one that does, one on a node that is down or draining, one that shares a zone
// or rack with another, one far from where the volume is used, one in the fullest pool.
// It returns -1 when held is empty. It does not ask whether any can be spared at all.
func (c *Cluster) Drop(held []Held) int {
	worst := -1
	for i := range held {
		if worst < 0 || slices.Compare(c.merit(held, i), c.merit(held, worst)) < 0 {
			worst = i
		}
	}
	return worst
}

// merit is what speaks for keeping a replica, the weightiest first.
func (c *Cluster) merit(held []Held, i int) []float64 {
	h := held[i]
	p, ok := c.poolOf[h.Pool]
	if !ok || c.pools[p].node < 0 {
		return []float64{yes(h.InSync), 0}
	}
	x := &c.pools[p]
	alone := -float64(c.sharers(held, i))
	return []float64{yes(h.InSync), 1, yes(c.standing(p) == fine || c.standing(p) == NodeCordoned || c.standing(p) == PoolCordoned),
		alone, yes(h.Near), -x.load, float64(hashOf(h.Replica) >> 11)}
}

// sharers counts the replicas in the same zone, and a little for those in the same rack.
func (c *Cluster) sharers(held []Held, i int) (n float64) {
	own := c.nodeOfPool(held[i].Pool)
	for j, h := range held {
		at := c.nodeOfPool(h.Pool)
		if j == i || at < 0 || own < 0 {
			continue
		}
		if c.nodes[at].zone == c.nodes[own].zone {
			n++
		}
		if c.nodes[at].rack == c.nodes[own].rack {
			n += 1.0 / 64
		}
	}
	return n
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
