// Package placementtest simulates clusters for placement: many nodes of several sizes in
// zones and racks, very many volumes of very different sizes, and then the loss of a
// node and of a zone.
package placementtest

import (
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/placement"
)

// Options are the size of a simulation.
type Options struct {
	Nodes   int
	Volumes int // of three replicas each
	Zones   int
	Seed    uint64
	Now     func() time.Duration // a clock; nil to take no times
}

// Report is what a simulation measured.
type Report struct {
	UsedMaxToMean     float64 // share of the fullest pool that is in use, to that of all
	PromisedMaxToMean float64
	Decision          time.Duration // mean, three replicas placed and promised
	Rebalance         RebalanceReport
	NodeLoss          LossReport
	ZoneLoss          LossReport
}

// RebalanceReport is what moving replicas from the fullest pools makes better.
type RebalanceReport struct {
	Moves         int
	BytesPercent  float64 // of all replicas' bytes, that are copied
	UsedMaxToMean float64
	Took          time.Duration
}

// LossReport is what the loss of a node or a zone does.
type LossReport struct {
	VolumesPercent float64 // of all, that lose a replica
	BytesPercent   float64 // of all replicas' bytes, that are copied
	Lost           int     // volumes
	Homeless       int     // volumes that can't be rebuilt
	Targets        int     // pools that take part in rebuilding
	MostPercent    float64 // of what is copied, into one pool
	UsedMaxToMean  float64 // afterwards, of the pools that are left
	Took           time.Duration
}

const replicas = 3

type world struct {
	Options
	cluster *placement.Cluster
	rnd     *rand.Rand
	space   []int64 // by pool, which are numbered as the nodes
	used    []int64
	index   map[string]int32
	sizes   []int64 // by volume
	fills   []int64
	at      [][replicas]int32
}

// Simulate builds a cluster and fills it. Pools are filled to about half of their space,
// and learn what is in use only now and then, as real ones do.
func Simulate(o Options) (Report, error) {
	w := &world{Options: o, cluster: placement.NewCluster(placement.Policy{OvercommitPercent: 200}), rnd: rand.New(rand.NewPCG(o.Seed, 1))}
	w.build()
	began := w.now()
	if err := w.fill(); err != nil {
		return Report{}, err
	}
	r := Report{Decision: (w.now() - began) / time.Duration(max(1, o.Volumes)), UsedMaxToMean: w.balance(w.used, nil)}
	r.PromisedMaxToMean = w.balance(w.promised(), nil)
	r.Rebalance = w.rebalance()
	r.NodeLoss = w.lose(func(n int) bool { return n == o.Nodes/2 })
	r.ZoneLoss = w.lose(func(n int) bool { return n%o.Zones == 0 })
	return r, nil
}

func (w *world) now() time.Duration {
	if w.Now == nil {
		return 0
	}
	return w.Now()
}

// draw returns a volume's size and what of it is written: most are small, a few are
// huge.
func (w *world) draw() (size, fill int64) {
	gib := math.Exp(w.rnd.NormFloat64()*1.2 + 2.5)
	size = int64(min(max(gib, 1), 512)) << 30
	return size, int64(float64(size) * (0.1 + 0.8*w.rnd.Float64()))
}

func (w *world) build() {
	var bytes float64
	for range w.Volumes {
		size, fill := w.draw()
		w.sizes, w.fills = append(w.sizes, size), append(w.fills, fill)
		bytes += float64(fill) * replicas
	}
	w.used, w.index = make([]int64, w.Nodes), make(map[string]int32, w.Nodes)
	unit := int64(bytes * 2 / float64(w.Nodes) / 1.75) // the mean of 1, 1, 2 and 3 units is 1.75
	for n := range w.Nodes {
		w.space = append(w.space, unit*[]int64{1, 1, 2, 3}[w.rnd.IntN(4)])
		w.cluster.SetNode(w.node(n))
		w.index[id("p", n)] = int32(n)
	}
}

func (w *world) node(n int) placement.Node {
	return placement.Node{ID: id("n", n), Name: id("n", n), Zone: id("z", n%w.Zones), Rack: id("r", n/w.Zones/20),
		Pools: []placement.Pool{{ID: id("p", n), Class: "ssd", Capacity: w.space[n], Used: w.used[n]}}}
}

const reportEvery = 1000 // volumes are made between two reports of what is in use

func (w *world) fill() error {
	for v := range w.Volumes {
		pools, err := w.cluster.Choose(placement.Request{Volume: w.volume(v), Replicas: replicas})
		if err != nil {
			return fmt.Errorf("volume %d of %d: %w", v, w.Volumes, err)
		}
		var at [replicas]int32
		for i, p := range pools {
			at[i] = w.index[p]
			w.used[at[i]] += w.fills[v]
			w.cluster.Promise(p, "", w.sizes[v])
		}
		w.at = append(w.at, at)
		if v%reportEvery == 0 {
			for n := range w.Nodes {
				w.cluster.Use(id("p", n), w.used[n])
			}
		}
	}
	return nil
}

func (w *world) volume(v int) placement.Volume {
	return placement.Volume{ID: id("v", v), Size: w.sizes[v]}
}

func (w *world) promised() []int64 {
	sum := make([]int64, w.Nodes)
	for v, at := range w.at {
		for _, p := range at {
			sum[p] += w.sizes[v]
		}
	}
	return sum
}

// balance is the highest share of a pool's space to the share of all, without those that
// are gone.
func (w *world) balance(amount []int64, gone func(int) bool) float64 {
	var most, all, space float64
	for n := range amount {
		if gone != nil && gone(n) {
			continue
		}
		most = max(most, float64(amount[n])/float64(w.space[n]))
		all, space = all+float64(amount[n]), space+float64(w.space[n])
	}
	return most / (all / space)
}

func (w *world) placed() iter.Seq[placement.Placed] {
	return func(yield func(placement.Placed) bool) {
		for v, at := range w.at {
			p := placement.Placed{Volume: w.volume(v), Replicas: make([]placement.Held, replicas)}
			p.Volume.Used = w.fills[v]
			for i := range at {
				p.Replicas[i] = placement.Held{Pool: id("p", int(at[i])), InSync: true}
			}
			if !yield(p) {
				return
			}
		}
	}
}

func (w *world) rebalance() RebalanceReport {
	began := w.now()
	plan := w.cluster.Rebalance(w.placed(), placement.RebalanceOptions{TolerancePercent: 4})
	r := RebalanceReport{Moves: len(plan.Moves), Took: w.now() - began}
	after := slices.Clone(w.used)
	var moved, all int64
	for _, m := range plan.Moves {
		after[w.index[m.From]] -= m.Bytes
		after[w.index[m.To]] += m.Bytes
		moved += m.Bytes
	}
	for _, used := range after {
		all += used
	}
	r.UsedMaxToMean, r.BytesPercent = w.balance(after, nil), 100*float64(moved)/float64(all)
	return r
}

func (w *world) lose(gone func(int) bool) LossReport {
	var nodes []string
	for n := range w.Nodes {
		if gone(n) {
			nodes = append(nodes, id("n", n))
		}
	}
	began := w.now()
	loss := w.cluster.Lose(w.placed(), nodes...)
	r := LossReport{Took: w.now() - began, Lost: len(loss.Lost), Homeless: len(loss.Homeless), Targets: len(loss.Into),
		VolumesPercent: 100 * float64(loss.Volumes) / float64(w.Volumes)}
	var all, most int64
	after := make([]int64, w.Nodes)
	for n := range w.Nodes {
		into := loss.Into[id("p", n)]
		all, most = all+w.used[n], max(most, into)
		after[n] = w.used[n] + into
	}
	r.BytesPercent = 100 * float64(loss.Bytes) / float64(all)
	r.MostPercent = 100 * float64(most) / float64(max(1, loss.Bytes))
	r.UsedMaxToMean = w.balance(after, gone)
	return r
}

func id(kind string, n int) string { return fmt.Sprintf("%s%d", kind, n) }
