package placement

import (
	"maps"
	"slices"
)

// Cluster is the nodes and pools, with what has been promised. It belongs to whoever
// calls it.
type Cluster struct {
	policy Policy
	nodes  []node
	pools  []pool
	nodeOf map[string]int32
	poolOf map[string]int32
	zones  names
	racks  names
	groups map[string]map[int32]int32 // group -> node -> replicas there

	tiers map[string]*tier // by class; "" has all. Nil when a node has changed.
	query query            // of the last request, for its memory
}

// names gives numbers to names.
type names struct {
	of   map[string]int32
	list []string
}

func (n *names) number(name string) int32 {
	if i, ok := n.of[name]; ok {
		return i
	}
	if n.of == nil {
		n.of = map[string]int32{}
	}
	i := int32(len(n.list))
	n.of[name] = i
	n.list = append(n.list, name)
	return i
}

type node struct {
	Node
	zone, rack int32
	pools      []int32
	gone       bool
	lost       bool // it is what Lose was asked of
}

type pool struct {
	Pool
	node     int32 // -1 when nobody knows: it has been promised to, and not been seen
	promised int64
	load     float64
}

// tier is the pools that may be chosen at all, of one class.
type tier struct {
	all   []int32
	zones [][]int32 // by number of the zone
}

// NewCluster returns a cluster without nodes.
func NewCluster(policy Policy) *Cluster {
	return &Cluster{policy: policy, nodeOf: map[string]int32{}, poolOf: map[string]int32{}, groups: map[string]map[int32]int32{}}
}

// Clone returns a copy in which something can be tried.
func (c *Cluster) Clone() *Cluster {
	d := *c
	d.nodes, d.pools = slices.Clone(c.nodes), slices.Clone(c.pools)
	d.nodeOf, d.poolOf = maps.Clone(c.nodeOf), maps.Clone(c.poolOf)
	d.zones = names{maps.Clone(c.zones.of), slices.Clone(c.zones.list)}
	d.racks = names{maps.Clone(c.racks.of), slices.Clone(c.racks.list)}
	d.groups = make(map[string]map[int32]int32, len(c.groups))
	for g, nodes := range c.groups {
		d.groups[g] = maps.Clone(nodes)
	}
	d.tiers, d.query = nil, query{}
	return &d
}

// SetNode adds a node, or says what it is now. What was promised of its pools stays.
func (c *Cluster) SetNode(n Node) {
	i, known := c.nodeOf[n.ID]
	if !known {
		i = int32(len(c.nodes))
		c.nodeOf[n.ID] = i
		c.nodes = append(c.nodes, node{})
	}
	for _, p := range c.nodes[i].pools {
		c.pools[p].node = -1
	}
	own := node{Node: n, zone: c.zones.number(n.Zone), rack: c.racks.number(n.Zone + "\x00" + n.Rack)}
	for _, p := range n.Pools {
		at := c.poolAt(p.ID)
		c.pools[at].Pool, c.pools[at].node = p, i
		c.weigh(at)
		own.pools = append(own.pools, at)
	}
	c.nodes[i] = own
	c.tiers = nil
}

// RemoveNode forgets a node.
func (c *Cluster) RemoveNode(id string) {
	i, ok := c.nodeOf[id]
	if !ok {
		return
	}
	for _, p := range c.nodes[i].pools {
		c.pools[p].node = -1
	}
	c.nodes[i].gone, c.nodes[i].pools = true, nil
	delete(c.nodeOf, id)
	c.tiers = nil
}

// Use says how much of a pool is in use now.
func (c *Cluster) Use(pool string, used int64) {
	if p, ok := c.poolOf[pool]; ok {
		c.pools[p].Used = used
		c.weigh(p)
	}
}

// Promise notes that a volume has a replica in the pool, or, with bytes below zero, that
// it has it no longer.
func (c *Cluster) Promise(pool, group string, bytes int64) {
	p := c.poolAt(pool)
	c.pools[p].promised += bytes
	c.weigh(p)
	if group == "" || c.pools[p].node < 0 {
		return
	}
	nodes := c.groups[group]
	if nodes == nil {
		nodes = map[int32]int32{}
		c.groups[group] = nodes
	}
	if bytes >= 0 {
		nodes[c.pools[p].node]++
	} else if nodes[c.pools[p].node]--; nodes[c.pools[p].node] <= 0 {
		delete(nodes, c.pools[p].node)
	}
}

// Fits reports whether a pool can be promised so many bytes more.
func (c *Cluster) Fits(pool string, bytes int64) bool {
	p, ok := c.poolOf[pool]
	return ok && c.pools[p].promised+bytes <= c.limit(p)
}

// Room returns what can still be promised of all pools that may be chosen, of a class;
// "" for all.
func (c *Cluster) Room(class string) (bytes int64) {
	for _, p := range c.tier(class).all {
		bytes += max(0, c.limit(p)-c.pools[p].promised)
	}
	return bytes
}

func (c *Cluster) poolAt(id string) int32 {
	if p, ok := c.poolOf[id]; ok {
		return p
	}
	p := int32(len(c.pools))
	c.poolOf[id] = p
	c.pools = append(c.pools, pool{Pool: Pool{ID: id}, node: -1})
	return p
}

// usable is a pool's space without its reserve.
func (p *pool) usable() int64 { return max(0, p.Capacity-p.Reserve) }

// limit is what may be promised of a pool.
func (c *Cluster) limit(p int32) int64 {
	return int64(float64(c.pools[p].usable()) * float64(c.policy.OvercommitPercent) / 100)
}

// weigh notes how full a pool is: more by what it holds than by what it has promised,
// because a volume will hold more than now, and less than all.
func (c *Cluster) weigh(p int32) {
	x := &c.pools[p]
	x.load = (3*float64(x.Used) + float64(x.promised)) / 4 / float64(max(1, x.usable()))
}

// loadWith is a pool's load with one more replica that fills up: a huge volume goes where
// even that does no harm.
func (c *Cluster) loadWith(p int32, v *Volume) float64 {
	x := &c.pools[p]
	return x.load + float64(v.Size)/float64(max(1, x.usable()))
}

// tier returns the pools of a class that may be chosen as their nodes are now.
func (c *Cluster) tier(class string) *tier {
	if c.tiers == nil {
		c.tiers = map[string]*tier{}
	}
	t := c.tiers[class]
	if t != nil {
		return t
	}
	t = &tier{zones: make([][]int32, len(c.zones.list))}
	for i := range c.pools {
		x := &c.pools[i]
		if class != "" && x.Class != class || x.node < 0 || c.standing(int32(i)) != fine {
			continue
		}
		zone := c.nodes[x.node].zone
		t.all = append(t.all, int32(i))
		t.zones[zone] = append(t.zones[zone], int32(i))
	}
	c.tiers[class] = t
	return t
}

// standing is why a pool may not be chosen for anything.
func (c *Cluster) standing(p int32) Reason {
	x := &c.pools[p]
	switch n := &c.nodes[x.node]; {
	case n.lost:
		return NodeLost
	case n.Down:
		return NodeDown
	case n.Maintenance:
		return NodeMaintenance
	case n.Draining:
		return NodeDraining
	case n.Cordoned:
		return NodeCordoned
	case x.Problem != "":
		return PoolTrouble
	case x.Draining:
		return PoolDraining
	case x.Cordoned:
		return PoolCordoned
	}
	return fine
}
