package placement_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/placement"
)

const gib = 1 << 30

// three nodes in two zones, with a pool of 100 GiB each.
func three() (*placement.Cluster, []placement.Node) {
	c := placement.NewCluster(placement.Policy{OvercommitPercent: 200})
	var nodes []placement.Node
	for i, zone := range []string{"a", "a", "b"} {
		n := placement.Node{ID: fmt.Sprint("id", i+1), Name: fmt.Sprint("n", i+1), Zone: zone,
			Pools: []placement.Pool{{ID: fmt.Sprint("pool", i+1), Name: "main", Class: "ssd", Capacity: 100 * gib}}}
		nodes = append(nodes, n)
		c.SetNode(n)
	}
	return c, nodes
}

func TestRefusalsSayWhatIsMissing(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(*placement.Cluster, []placement.Node)
		r    placement.Request
		want string
		kind fault.Kind
	}{
		{"zones", nil, placement.Request{Volume: placement.Volume{Spread: placement.Zones}, Replicas: 3},
			"needs 3 zones, the cluster has 2: 2 pools are on nodes that hold a replica already (n1, n3); 1 pool is in a zone that holds a replica already (n2: a)", fault.Precondition},
		{"nodes", nil, placement.Request{Replicas: 4},
			"needs 4 nodes, the cluster has 3: 3 pools are on nodes that hold a replica already (n1, n2, n3)", fault.Precondition},
		{"class", nil, placement.Request{Volume: placement.Volume{Class: "nvme"}, Replicas: 1},
			"no pool can be chosen for replica 1 of 1: 3 pools have not class nvme (n1/main: ssd, n2/main: ssd, n3/main: ssd)", fault.Precondition},
		{"promised", func(c *placement.Cluster, _ []placement.Node) {
			c.Promise("pool1", "", 150*gib)
			c.Promise("pool2", "", 101*gib)
		},
			placement.Request{Volume: placement.Volume{Size: 100 * gib}, Replicas: 2},
			"no room for replica 2 of 2 of 100 GiB: 1 pool is on nodes that hold a replica already (n3); " +
				"2 pools have promised as much as they may (n1/main: 50 GiB left of 200 GiB, n2/main: 99 GiB left of 200 GiB)", fault.NoSpace},
		{"down and in maintenance", func(c *placement.Cluster, nodes []placement.Node) {
			nodes[0].Down, nodes[1].Maintenance = true, true
			c.SetNode(nodes[0])
			c.SetNode(nodes[1])
		}, placement.Request{Volume: placement.Volume{Size: 1}, Replicas: 2},
			"no pool can be chosen for replica 2 of 2: 1 pool is on nodes that are down (n1); 1 pool is on nodes in maintenance (n2); " +
				"1 pool is on nodes that hold a replica already (n3)", fault.Precondition},
		{"full", func(c *placement.Cluster, nodes []placement.Node) { c.Use("pool2", 95*gib) },
			placement.Request{Volume: placement.Volume{Size: 20 * gib, Used: 10 * gib, Nodes: []string{"n2"}}, Replicas: 1},
			"no room for replica 1 of 1 of 20 GiB: 2 pools are on nodes that are not among n2 (n1, n3); 1 pool is too full (n2/main: 5 GiB free)", fault.NoSpace},
		{"anti-affinity", func(c *placement.Cluster, nodes []placement.Node) {
			for i := range 3 {
				c.Promise(fmt.Sprint("pool", i+1), "db", gib)
			}
		}, placement.Request{Volume: placement.Volume{Size: 1, Group: "db", GroupPolicy: placement.AntiAffinity}, Replicas: 1},
			"no pool can be chosen for replica 1 of 1: 3 pools are on nodes that hold another volume of group db (n1, n2, n3)", fault.Precondition},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, nodes := three()
			if tt.do != nil {
				tt.do(c, nodes)
			}
			tt.r.Volume.ID = "v1"
			_, err := c.Choose(tt.r)
			refusal, ok := err.(*placement.Refusal)
			if !ok {
				t.Fatalf("Choose = %v", err)
			}
			if refusal.Error() != tt.want {
				t.Errorf("the refusal says\n%s\nwant\n%s", refusal, tt.want)
			}
			if err := refusal.Fault("test"); !fault.Is(err, tt.kind) {
				t.Errorf("its kind is %v, want %v", fault.KindOf(err), tt.kind)
			}
		})
	}
}

func TestAnEmptyClusterSaysSo(t *testing.T) {
	_, err := placement.NewCluster(placement.Policy{}).Choose(placement.Request{Replicas: 1})
	if err == nil || err.Error() != "the cluster has no nodes" {
		t.Errorf("Choose = %v", err)
	}
}

func TestZonesAreKeptApartAsFarAsTheyReach(t *testing.T) {
	for v := range 50 {
		c, _ := three()
		pools, err := c.Choose(placement.Request{Volume: placement.Volume{ID: fmt.Sprint(v), Size: 1}, Replicas: 2})
		if err != nil || !slices.Contains(pools, "pool3") {
			t.Errorf("two replicas are in %v (%v): zone b has one pool, and it is not among them", pools, err)
		}
	}
}

func TestAGroupWithAffinityStaysTogetherWhileItCan(t *testing.T) {
	c, nodes := three()
	volume := placement.Volume{ID: "v", Size: 1, Group: "app", GroupPolicy: placement.Affinity}
	c.Promise("pool2", "app", gib)
	if pools, err := c.Choose(placement.Request{Volume: volume, Replicas: 1}); err != nil || pools[0] != "pool2" {
		t.Errorf("Choose = %v, %v, want pool2, where the group is", pools, err)
	}
	nodes[1].Down = true
	c.SetNode(nodes[1])
	if pools, err := c.Choose(placement.Request{Volume: volume, Replicas: 1}); err != nil || pools[0] == "pool2" {
		t.Errorf("Choose = %v, %v, want another pool: the group's is down", pools, err)
	}
}

func TestTheReplicaThatIsSparedIsTheLeastOfUse(t *testing.T) {
	held := []placement.Held{{Replica: "1", Pool: "pool1", InSync: true}, {Replica: "2", Pool: "pool2", InSync: true}, {Replica: "3", Pool: "pool3", InSync: true}}
	for _, tt := range []struct {
		name string
		do   func(*placement.Cluster, []placement.Node, []placement.Held)
		want int
	}{
		{"the one of two in a zone that is fuller", func(c *placement.Cluster, _ []placement.Node, _ []placement.Held) { c.Use("pool2", gib) }, 1},
		{"not the one where the volume is used", func(c *placement.Cluster, _ []placement.Node, h []placement.Held) {
			c.Use("pool2", gib)
			h[1].Near = true
		}, 0},
		{"one that is not in sync", func(c *placement.Cluster, _ []placement.Node, h []placement.Held) { h[2].InSync = false }, 2},
		{"one on a node that is down", func(c *placement.Cluster, n []placement.Node, _ []placement.Held) { n[2].Down = true; c.SetNode(n[2]) }, 2},
		{"one whose pool nobody knows", func(c *placement.Cluster, n []placement.Node, _ []placement.Held) { c.RemoveNode(n[2].ID) }, 2},
	} {
		c, nodes := three()
		h := slices.Clone(held)
		tt.do(c, nodes, h)
		if got := c.Drop(h); got != tt.want {
			t.Errorf("%s: Drop = %d, want %d", tt.name, got, tt.want)
		}
	}
	c, _ := three()
	if got := c.Drop(nil); got != -1 {
		t.Errorf("Drop of nothing = %d", got)
	}
}

func TestTheLossOfANodeIsForeseen(t *testing.T) {
	c, _ := three()
	placed := func(id string, pools ...string) placement.Placed {
		p := placement.Placed{Volume: placement.Volume{ID: id, Size: 10 * gib, Used: gib}}
		for _, pool := range pools {
			p.Replicas = append(p.Replicas, placement.Held{Pool: pool, InSync: true})
		}
		return p
	}
	volumes := []placement.Placed{placed("only", "pool1"), placed("two", "pool1", "pool2"), placed("three", "pool1", "pool2", "pool3"), placed("far", "pool3")}
	loss := c.Lose(slices.Values(volumes), "id1")
	if loss.Volumes != 3 || !slices.Equal(loss.Lost, []string{"only"}) || !slices.Equal(loss.Single, []string{"two"}) {
		t.Errorf("Lose = %+v", loss)
	}
	if len(loss.Homeless) != 1 || loss.Homeless[0].Volume != "three" {
		t.Errorf("homeless are %+v, want three", loss.Homeless)
	}
	if loss.Bytes != gib || loss.Into["pool3"] != gib {
		t.Errorf("%d bytes are copied, into %v; want those of two, into pool3", loss.Bytes, loss.Into)
	}
	if pools, err := c.Choose(placement.Request{Volume: placement.Volume{ID: "x"}, Replicas: 3}); err != nil || len(pools) != 3 {
		t.Errorf("after the preview the cluster is another: %v, %v", pools, err)
	}
}

func TestANewZoneIsUsedByARebalancing(t *testing.T) {
	c, _ := three() // zones a, a and b
	var volumes []placement.Placed
	for v := range 10 {
		p := placement.Placed{Volume: placement.Volume{ID: fmt.Sprint(v), Size: gib, Used: gib}}
		for i := range 3 {
			pool := fmt.Sprint("pool", i+1)
			p.Replicas = append(p.Replicas, placement.Held{Replica: fmt.Sprint(v, ".", i), Pool: pool, InSync: true})
			c.Promise(pool, "", gib)
		}
		volumes = append(volumes, p)
	}
	if plan := c.Rebalance(slices.Values(volumes), placement.RebalanceOptions{}); len(plan.Moves) != 0 {
		t.Errorf("with two zones there are moves: %v", plan.Moves)
	}
	c.SetNode(placement.Node{ID: "id4", Name: "n4", Zone: "c", Pools: []placement.Pool{{ID: "pool4", Class: "ssd", Capacity: 100 * gib}}})
	plan := c.Rebalance(slices.Values(volumes), placement.RebalanceOptions{})
	to := map[string]int{}
	for _, m := range plan.Moves {
		i := slices.IndexFunc(volumes, func(p placement.Placed) bool { return p.Volume.ID == m.Volume })
		for r := range volumes[i].Replicas {
			if h := &volumes[i].Replicas[r]; h.Replica == m.Replica {
				h.Pool = m.To
			}
		}
		to[m.To]++
	}
	if to["pool4"] != 10 {
		t.Errorf("%d of 10 volumes get a replica in the third zone: %v", to["pool4"], plan.Moves)
	}
	for _, v := range volumes {
		zones := map[string]bool{}
		for _, h := range v.Replicas {
			zones[map[string]string{"pool1": "a", "pool2": "a", "pool3": "b", "pool4": "c"}[h.Pool]] = true
		}
		if len(zones) != 3 {
			t.Errorf("volume %s is in %v", v.Volume.ID, v.Replicas)
		}
	}
}

func TestTheFirstReplicaGoesWhereTheVolumeIsUsed(t *testing.T) {
	c, nodes := three()
	for i, want := range []string{"pool1", "pool2", "pool3"} {
		c.Promise(want, "", 50*gib) // fuller than the others: a preference weighs more
		for _, name := range []string{nodes[i].ID, nodes[i].Name} {
			pools, err := c.Choose(placement.Request{Volume: placement.Volume{ID: "v", Size: gib, Prefer: name}, Replicas: 2})
			if err != nil || pools[0] != want || pools[1] == want {
				t.Errorf("preferring %s: %v, %v", name, pools, err)
			}
		}
	}
	r := placement.Request{Volume: placement.Volume{ID: "v", Size: gib, Prefer: "n3"}, Replicas: 1, Held: []string{"pool1"}}
	c.Use("pool3", 90*gib)
	if pools, err := c.Choose(r); err != nil || pools[0] != "pool3" { // the other zone, whatever is preferred
		t.Errorf("a second replica: %v, %v", pools, err)
	}
	nodes[2].Cordoned = true
	c.SetNode(nodes[2])
	for _, name := range []string{"n3", "nobody"} { // a wish, not a condition
		r := placement.Request{Volume: placement.Volume{ID: "v", Size: gib, Prefer: name}, Replicas: 1}
		if pools, err := c.Choose(r); err != nil || pools[0] == "pool3" {
			t.Errorf("preferring %s, which can't be: %v, %v", name, pools, err)
		}
	}
	c.Promise("pool1", "app", gib)
	r = placement.Request{Volume: placement.Volume{ID: "v", Size: gib, Prefer: "n2", Group: "app", GroupPolicy: placement.Affinity}, Replicas: 1}
	if pools, err := c.Choose(r); err != nil || pools[0] != "pool1" {
		t.Errorf("a group's wish is said by somebody: %v, %v", pools, err)
	}
}
