package placement

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Reason is why a pool can't be chosen. A pool is counted under the first that applies.
type Reason uint8

// The reasons, in the order in which they are asked.
const (
	fine            Reason = iota
	NotListed              // it is not among the pools that alone may be chosen
	NodeNotNamed           // the volume names nodes, and not this one
	ZoneNotNamed           // the volume names zones, and not this one
	RackNotNamed           // the volume names racks, and not this one
	LabelsLacking          // the node lacks a label
	OtherClass             // the pool is of another class
	NodeLost               // it would be lost with the node, or pool, whose loss is thought of
	NodeDown               // the node is down
	NodeMaintenance        // the node is in maintenance
	NodeDraining           // the node is draining
	NodeCordoned           // the node is cordoned
	PoolTrouble            // the pool has a problem
	PoolDraining           // the pool is draining
	PoolCordoned           // the pool is cordoned
	PoolLeft               // the replica is to leave this pool
	NodeTaken              // the node holds a replica of the volume already
	NoDomain               // the node says no zone or rack
	DomainTaken            // the zone or rack holds a replica of the volume already
	GroupTaken             // the node holds another volume of the group
	PromisedFull           // too much has been promised of the pool
	Full                   // the pool has too little free space
	reasons
)

// why says why a pool can't be chosen, or fine.
func (c *Cluster) why(q *query, p int32) Reason {
	x := &c.pools[p]
	n := &c.nodes[x.node]
	v := &q.Volume
	switch {
	case q.Only != nil && !slices.Contains(q.only, p):
		return NotListed
	case q.named && !slices.Contains(q.nodes, x.node):
		return NodeNotNamed
	case q.zoned && !slices.Contains(q.zones, n.zone):
		return ZoneNotNamed
	case len(v.Racks) > 0 && !slices.Contains(v.Racks, n.Rack):
		return RackNotNamed
	case !labelled(n.Labels, v.Labels):
		return LabelsLacking
	case v.Class != "" && x.Class != v.Class:
		return OtherClass
	}
	if s := c.standing(p); s != fine {
		return s
	}
	switch {
	case slices.Contains(q.Leave, x.ID):
		return PoolLeft
	case slices.Contains(q.taken, x.node):
		return NodeTaken
	case v.Spread == Zones && n.Zone == "" || v.Spread == Racks && n.Rack == "":
		return NoDomain
	case v.Spread != Nodes && c.shared(q, n):
		return DomainTaken
	case v.GroupPolicy == AntiAffinity && q.group[x.node] > 0:
		return GroupTaken
	case x.promised+v.Size > c.limit(p):
		return PromisedFull
	case x.Used+v.Used > x.usable():
		return Full
	}
	return fine
}

// shared reports whether a replica of the volume is in the node's rack or zone.
func (c *Cluster) shared(q *query, n *node) bool {
	return slices.ContainsFunc(q.counted, func(i int32) bool {
		return q.Volume.Spread == Zones && c.nodes[i].zone == n.zone || q.Volume.Spread == Racks && c.nodes[i].rack == n.rack
	})
}

func labelled(has, wants map[string]string) bool {
	for k, v := range wants {
		if got, ok := has[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Refusal says why replicas could not be placed.
type Refusal struct {
	What    string    // could not be had, and the nearest cause: one sentence
	Cure    string    // what helps, in the imperative
	Pools   int       // in the cluster
	Blocked []Blocked // the pools, by reason
}

// Blocked is the pools that one reason rules out.
type Blocked struct {
	Reason Reason
	Pools  int
	Text   string // in words, with the first few names
}

// Error says all of it in one line.
func (r *Refusal) Error() string {
	var b strings.Builder
	b.WriteString(r.What)
	for i, x := range r.Blocked {
		b.WriteString([]string{": ", "; "}[min(i, 1)])
		b.WriteString(x.Text)
	}
	return b.String()
}

// Kind is NoSpace when more space would help, else Precondition.
func (r *Refusal) Kind() fault.Kind {
	for _, b := range r.Blocked {
		if b.Reason == PromisedFull || b.Reason == Full {
			return fault.NoSpace
		}
	}
	return fault.Precondition
}

// Fault returns the refusal as an error with a kind and a cure.
func (r *Refusal) Fault(op string) error {
	return fault.WithCure(fault.Errorf(op, r.Kind(), "%w", r), r.Cure)
}

// refuse explains why the query could not be answered after placed replicas were. Those
// are in q as taken.
func (c *Cluster) refuse(q *query, placed int) *Refusal {
	by := [reasons][]int32{}
	seen := 0
	for p := range c.pools {
		if c.pools[p].node < 0 {
			continue
		}
		seen++
		reason := c.why(q, int32(p))
		by[reason] = append(by[reason], int32(p))
	}
	r := &Refusal{Pools: seen}
	for reason := fine + 1; reason < reasons; reason++ {
		if list := by[reason]; len(list) > 0 {
			r.Blocked = append(r.Blocked, Blocked{reason, len(list), c.tell(q, reason, list)})
		}
	}
	r.What, r.Cure = c.headline(q, placed, by)
	return r
}

// headline says what was wanted and what there is.
func (c *Cluster) headline(q *query, placed int, by [reasons][]int32) (what, cure string) {
	v := &q.Volume
	want := len(q.Held) + q.Replicas
	have := len(q.Held) + placed
	switch {
	case len(c.nodeOf) == 0:
		return "the cluster has no nodes", "start a node"
	case q.Only != nil:
		return "none of the pools where it has to be can be chosen", "free space there, bring back their nodes, or choose another place"
	case len(by[DomainTaken])+len(by[NoDomain]) > 0 && len(by[PromisedFull])+len(by[Full]) == 0:
		there := c.domains(v.Spread)
		if there < want {
			return fmt.Sprintf("needs %d %ss, the cluster has %d", want, v.Spread, there),
				fmt.Sprintf("add nodes in another %s, or ask for fewer replicas or a narrower spread", v.Spread)
		}
		return fmt.Sprintf("needs %d %ss, %d of the cluster's %d have a pool that can be used", want, v.Spread, have, there),
			"bring back or uncordon what is named, or ask for fewer replicas"
	case len(by[PromisedFull])+len(by[Full]) > 0:
		return fmt.Sprintf("no room for replica %d of %d of %s", have+1, want, bytesText(max(v.Size, v.Used))),
			"add a pool or a node, delete volumes, purge what is in the trash (holdfast volume list --trash), or raise the over-commit limit (settings overcommit_percent)"
	case len(c.nodeOf) < want:
		return fmt.Sprintf("needs %d nodes, the cluster has %d", want, len(c.nodeOf)), "add nodes, or ask for fewer replicas"
	}
	return fmt.Sprintf("no pool can be chosen for replica %d of %d", have+1, want),
		"bring back or uncordon what is named, or ask for less"
}

// domains counts the racks or zones with a name.
func (c *Cluster) domains(s Spread) int {
	seen := map[int32]bool{}
	for i := range c.nodes {
		switch n := &c.nodes[i]; {
		case n.gone:
		case s == Zones && n.Zone != "":
			seen[n.zone] = true
		case s == Racks && n.Rack != "":
			seen[n.rack] = true
		}
	}
	return len(seen)
}

const examplesMax = 5

// tell puts one reason into words.
func (c *Cluster) tell(q *query, reason Reason, list []int32) string {
	v := &q.Volume
	n := len(list)
	has := "have"
	is := "are"
	pools := fmt.Sprintf("%d pools", n)
	if n == 1 {
		has, is, pools = "has", "is", "1 pool"
	}
	of := map[Reason]string{
		NotListed:       is + " not where it has to be",
		NodeNotNamed:    is + " on nodes that are not among " + strings.Join(v.Nodes, ", "),
		ZoneNotNamed:    is + " outside of zone " + strings.Join(v.Zones, ", "),
		RackNotNamed:    is + " outside of rack " + strings.Join(v.Racks, ", "),
		LabelsLacking:   is + " on nodes without " + labelsText(v.Labels),
		OtherClass:      has + " not class " + v.Class,
		NodeLost:        "would be gone",
		NodeDown:        is + " on nodes that are down",
		NodeMaintenance: is + " on nodes in maintenance",
		NodeDraining:    is + " on draining nodes",
		NodeCordoned:    is + " on cordoned nodes",
		PoolTrouble:     is + " not usable",
		PoolDraining:    is + " draining",
		PoolCordoned:    is + " cordoned",
		PoolLeft:        has + " the replica that is to leave",
		NodeTaken:       is + " on nodes that hold a replica already",
		NoDomain:        is + " on nodes that name no " + v.Spread.String(),
		DomainTaken:     is + " in a " + v.Spread.String() + " that holds a replica already",
		GroupTaken:      is + " on nodes that hold another volume of group " + v.Group,
		PromisedFull:    has + " promised as much as they may",
		Full:            is + " too full",
	}[reason]
	if n == 1 && reason == PromisedFull {
		of = "has promised as much as it may"
	}
	return pools + " " + of + " (" + c.examples(reason, list) + ")"
}

// examples names the first few: nodes where the reason is the node's, pools else.
func (c *Cluster) examples(reason Reason, list []int32) string {
	var out []string
	for _, p := range list {
		out = append(out, c.example(reason, p))
	}
	slices.Sort(out)
	out = slices.Compact(out)
	if more := len(out) - examplesMax; more > 0 {
		out = append(out[:examplesMax], fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

func (c *Cluster) example(reason Reason, p int32) string {
	x := &c.pools[p]
	n := &c.nodes[x.node]
	name := cmp.Or(n.Name, n.ID)
	full := name + "/" + cmp.Or(x.Name, x.ID)
	switch reason {
	case OtherClass:
		return full + ": " + cmp.Or(x.Class, "none")
	case PoolTrouble:
		return full + ": " + x.Problem
	case PromisedFull:
		return full + ": " + bytesText(max(0, c.limit(p)-x.promised)) + " left of " + bytesText(c.limit(p))
	case Full:
		return full + ": " + bytesText(max(0, x.usable()-x.Used)) + " free"
	case NotListed, PoolDraining, PoolCordoned, PoolLeft:
		return full
	case ZoneNotNamed, DomainTaken:
		return name + ": " + cmp.Or(n.Zone, "no zone")
	}
	return name
}

func labelsText(labels map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, k+"="+labels[k])
	}
	return "label " + strings.Join(out, ", ")
}

// bytesText prints a size for people.
func bytesText(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, u := float64(n), 0
	for f >= 1024 && u < len(units)-1 {
		f, u = f/1024, u+1
	}
	if f == float64(int64(f)) {
		return fmt.Sprintf("%.0f %s", f, units[u])
	}
	return fmt.Sprintf("%.1f %s", f, units[u])
}
