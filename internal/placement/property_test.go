package placement_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/placement"
)

// random is a small cluster with everything that can be wrong with it.
type random struct {
	*rand.Rand
	nodes    []placement.Node
	promised map[string]int64
	group    map[string]bool // nodes that hold a volume of group g
	cluster  *placement.Cluster
}

func (r *random) chance(percent int) bool { return r.IntN(100) < percent }

func newRandom(seed uint64) *random {
	r := &random{Rand: rand.New(rand.NewPCG(seed, 7)), promised: map[string]int64{}, group: map[string]bool{},
		cluster: placement.NewCluster(placement.Policy{OvercommitPercent: 150})}
	zones := 1 + r.IntN(4)
	for i := range 1 + r.IntN(40) {
		n := placement.Node{ID: fmt.Sprint("n", i), Name: fmt.Sprint("node", i), Labels: map[string]string{"disk": []string{"fast", "slow"}[r.IntN(2)]},
			Down: r.chance(10), Cordoned: r.chance(10), Draining: r.chance(5), Maintenance: r.chance(5)}
		if !r.chance(10) {
			n.Zone = fmt.Sprint("z", r.IntN(zones))
		}
		if !r.chance(10) {
			n.Rack = fmt.Sprint("r", r.IntN(5))
		}
		for p := range 1 + r.IntN(2) {
			pool := placement.Pool{ID: fmt.Sprint("p", i, ".", p), Name: fmt.Sprint("pool", p), Class: []string{"ssd", "hdd"}[r.IntN(2)],
				Capacity: 100, Reserve: 10, Used: int64(r.IntN(95)), Cordoned: r.chance(5), Draining: r.chance(5)}
			if r.chance(5) {
				pool.Problem = "its disk fails"
			}
			n.Pools = append(n.Pools, pool)
		}
		r.nodes = append(r.nodes, n)
		r.cluster.SetNode(n)
		for _, p := range n.Pools {
			r.promised[p.ID] = int64(r.IntN(150))
			r.cluster.Promise(p.ID, "", r.promised[p.ID])
		}
		if r.chance(20) {
			r.group[n.ID] = true
			r.cluster.Promise(n.Pools[0].ID, "g", 0)
		}
	}
	return r
}

func (r *random) request() placement.Request {
	v := placement.Volume{ID: fmt.Sprint("v", r.Uint32()), Size: int64(r.IntN(40)), Used: int64(r.IntN(20)), Spread: placement.Spread(r.IntN(3))}
	if r.chance(30) {
		v.Class = "ssd"
	}
	if r.chance(15) {
		v.Zones = []string{"z0", "z1"}
	}
	if r.chance(10) {
		v.Racks = []string{"r0", "r1", "r2"}
	}
	if r.chance(15) {
		v.Nodes = []string{"node0", "n1", "node2", "n3"}
	}
	if r.chance(15) {
		v.Labels = map[string]string{"disk": "fast"}
	}
	if r.chance(40) {
		v.Group, v.GroupPolicy = "g", placement.GroupPolicy(1+r.IntN(2))
	}
	q := placement.Request{Volume: v, Replicas: 1 + r.IntN(3)}
	if r.chance(30) {
		n := r.nodes[r.IntN(len(r.nodes))]
		q.Held = []string{n.Pools[0].ID}
	}
	return q
}

// allows says, in the plainest way, whether a pool may take a replica beside others.
func (r *random) allows(q placement.Request, n placement.Node, p placement.Pool, beside []placement.Node) bool {
	v := q.Volume
	usable := p.Capacity - p.Reserve
	switch {
	case n.Down || n.Cordoned || n.Draining || n.Maintenance || p.Cordoned || p.Draining || p.Problem != "":
		return false
	case v.Class != "" && v.Class != p.Class:
		return false
	case v.Zones != nil && !slices.Contains(v.Zones, n.Zone), v.Racks != nil && !slices.Contains(v.Racks, n.Rack):
		return false
	case v.Nodes != nil && !slices.Contains(v.Nodes, n.Name) && !slices.Contains(v.Nodes, n.ID):
		return false
	case v.Labels["disk"] != "" && v.Labels["disk"] != n.Labels["disk"]:
		return false
	case v.GroupPolicy == placement.AntiAffinity && r.group[n.ID]:
		return false
	case v.Spread == placement.Zones && n.Zone == "", v.Spread == placement.Racks && n.Rack == "":
		return false
	case r.promised[p.ID]+v.Size > usable*150/100, p.Used+v.Used > usable:
		return false
	}
	return !slices.ContainsFunc(beside, func(b placement.Node) bool { return domain(v.Spread, b) == domain(v.Spread, n) || b.ID == n.ID })
}

func domain(s placement.Spread, n placement.Node) string {
	switch s {
	case placement.Zones:
		return n.Zone
	case placement.Racks:
		return n.Zone + "/" + n.Rack
	}
	return n.ID
}

func (r *random) find(pool string) (placement.Node, placement.Pool) {
	for _, n := range r.nodes {
		for _, p := range n.Pools {
			if p.ID == pool {
				return n, p
			}
		}
	}
	panic("no pool " + pool)
}

// most is how many replicas could be added: one in each domain that has a pool.
func (r *random) most(q placement.Request, held []placement.Node) int {
	domains := map[string]bool{}
	for _, n := range r.nodes {
		for _, p := range n.Pools {
			if r.allows(q, n, p, held) {
				domains[domain(q.Volume.Spread, n)] = true
			}
		}
	}
	return len(domains)
}

func TestEveryChoiceKeepsTheRulesAndEveryRefusalIsTrue(t *testing.T) {
	for seed := range uint64(20000) {
		r := newRandom(seed)
		q := r.request()
		var held []placement.Node
		for _, p := range q.Held {
			n, _ := r.find(p)
			held = append(held, n)
		}
		most := r.most(q, held)
		pools, err := r.cluster.Choose(q)
		again, err2 := r.cluster.Clone().Choose(q)
		if !slices.Equal(pools, again) || (err == nil) != (err2 == nil) {
			t.Fatalf("seed %d: the same question has two answers: %v (%v), %v (%v)", seed, pools, err, again, err2)
		}
		if err != nil {
			var refusal *placement.Refusal
			if !errors.As(err, &refusal) || refusal.Cure == "" || len(refusal.Blocked) == 0 {
				t.Fatalf("seed %d: a refusal without reasons: %v", seed, err)
			}
			if most >= q.Replicas {
				t.Fatalf("seed %d: %d replicas could be placed, and %d were refused: %v", seed, most, q.Replicas, err)
			}
			continue
		}
		for _, id := range pools {
			n, p := r.find(id)
			if !r.allows(q, n, p, held) {
				t.Fatalf("seed %d: pool %s may not be chosen for %+v beside %v", seed, id, q, held)
			}
			held = append(held, n)
		}
		if len(pools) != q.Replicas {
			t.Fatalf("seed %d: %d pools for %d replicas", seed, len(pools), q.Replicas)
		}
	}
}

func TestRefusalsCountEveryPoolOnce(t *testing.T) {
	for seed := range uint64(2000) {
		r := newRandom(seed)
		q := r.request()
		q.Replicas = 50
		_, err := r.cluster.Choose(q)
		var refusal *placement.Refusal
		if !errors.As(err, &refusal) {
			t.Fatalf("seed %d: 50 replicas are placed on 40 nodes", seed)
		}
		sum := 0
		for _, b := range refusal.Blocked {
			sum += b.Pools
		}
		if sum != refusal.Pools {
			t.Fatalf("seed %d: %d of %d pools have a reason: %v", seed, sum, refusal.Pools, err)
		}
	}
}

func TestARebalancingNeverMakesAnythingWorse(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 9))
		c := placement.NewCluster(placement.Policy{OvercommitPercent: 200})
		nodes := 4 + r.IntN(20)
		for n := range nodes {
			c.SetNode(placement.Node{ID: fmt.Sprint("n", n), Zone: fmt.Sprint("z", n%3), Pools: []placement.Pool{{ID: fmt.Sprint("p", n), Capacity: 1 << 20}}})
		}
		var volumes []placement.Placed
		used := map[string]int64{}
		for v := range 20 * nodes {
			vol := placement.Volume{ID: fmt.Sprint("v", v), Size: int64(1 + r.IntN(1000)), Used: 1}
			vol.Used = 1 + r.Int64N(vol.Size)
			crowd := max(3, r.IntN(nodes)) // the first nodes hold more
			p := placement.Placed{Volume: vol}
			for _, n := range r.Perm(crowd)[:2] {
				pool := fmt.Sprint("p", n)
				p.Replicas = append(p.Replicas, placement.Held{Replica: fmt.Sprint(v, ".", n), Pool: pool, InSync: true})
				c.Promise(pool, "", vol.Size)
				used[pool] += vol.Used
				c.Use(pool, used[pool])
			}
			volumes = append(volumes, p)
		}
		plan := c.Rebalance(slices.Values(volumes), placement.RebalanceOptions{})
		again := c.Rebalance(slices.Values(volumes), placement.RebalanceOptions{MovesMax: 3})
		if plan.After > plan.Before || plan.Before > 1.3 && plan.After > 1.15 {
			t.Errorf("seed %d: %d moves, from %.3f to %.3f of the mean", seed, len(plan.Moves), plan.Before, plan.After)
		}
		seen := map[string]bool{}
		for _, m := range plan.Moves {
			at := slices.IndexFunc(volumes, func(p placement.Placed) bool { return p.Volume.ID == m.Volume })
			if seen[m.Replica] || slices.ContainsFunc(volumes[at].Replicas, func(h placement.Held) bool { return h.Pool == m.To }) {
				t.Errorf("seed %d: a wrong move %+v", seed, m)
			}
			seen[m.Replica] = true
			for i := range volumes[at].Replicas {
				if h := &volumes[at].Replicas[i]; h.Replica == m.Replica {
					h.Pool = m.To
				}
			}
		}
		if len(again.Moves) != min(3, len(plan.Moves)) || !slices.Equal(again.Moves, plan.Moves[:len(again.Moves)]) {
			t.Errorf("seed %d: a limited plan is not the beginning of the whole one", seed)
		}
	}
}
