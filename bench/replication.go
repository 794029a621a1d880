package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/node"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/wire/link/linktest"
)

var replicationBenchmarks = []bench.Benchmark{{
	Name: "replication/tls",
	What: "a volume of three replicas over TLS on one disk, against three parallel raw writes, and a raw file for reads",
	Run:  func(r *bench.Run) error { return benchReplication(r, 3, true) },
}, {
	Name: "replication/clear",
	What: "the same without TLS",
	Run:  func(r *bench.Run) error { return benchReplication(r, 3, false) },
}, {
	Name: "replication/one",
	What: "a volume of one local replica, against a raw file",
	Run:  func(r *bench.Run) error { return benchReplication(r, 1, false) },
}, {
	Name: "replication/resync",
	What: "a replica gets every second block of a volume, against writing as much to a file in order, and every second block",
	Run:  func(r *bench.Run) error { return benchResync(r, 1<<30) },
}, {
	Name: "replication/resync-4g",
	What: "the same of a volume of 4 GiB",
	Run:  func(r *bench.Run) error { return benchResync(r, 4<<30) },
}, {
	Name: "replication/step",
	What: "events a second that a coordinator of three replicas decides about",
	Run:  benchStep,
}}

const (
	replicatedBytes = 1 << 30
	replicatedTime  = time.Second // each sample
)

// replicatedLoad is one way in which a replicated volume is used. Goals are against
// the floor for writes, and against the raw file for reads.
type replicatedLoad struct {
	name      string
	verb      store.Verb
	seq       bool
	depth     int
	blocks    int
	ratio     float64 // goal: IOPS against the baseline, of three replicas
	ratioOne  float64 // of one
	addedGoal float64 // goal: µs of latency more than the baseline
}

var replicatedLoads = []replicatedLoad{
	{name: "write-4k-qd1", verb: store.Write, depth: 1, blocks: 1, addedGoal: 150},
	{name: "write-4k-qd32", verb: store.Write, depth: 32, blocks: 1, ratio: 0.60, ratioOne: 0.85},
	{name: "read-4k-qd1", verb: store.Read, depth: 1, blocks: 1},
	{name: "read-4k-qd32", verb: store.Read, depth: 32, blocks: 1, ratio: 0.90, ratioOne: 0.85},
	{name: "write-128k-seq", verb: store.Write, seq: true, depth: 8, blocks: 32},
	{name: "read-128k-seq", verb: store.Read, seq: true, depth: 8, blocks: 32},
}

func (l replicatedLoad) on(blocks int) load {
	order := randomly(blocks)
	if l.seq {
		order = inTurn(blocks, l.blocks)
	}
	return order.lasting(replicatedTime, l.depth, l.blocks)
}

// benchReplication shows what replication leaves of the disk.
func benchReplication(r *bench.Run, replicas int, tls bool) error {
	return newGround(r, int64(replicas)*2*replicatedBytes+1<<30, func(g *ground) error {
		v, err := newReplicated(g, replicatedBytes, replicas, tls)
		if err != nil {
			return err
		}
		defer v.close()
		if err := v.fill(); err != nil {
			return err
		}
		files := make([]host.File, replicas)
		for i := range files {
			if _, files[i], err = g.fullFile(replicatedBytes); err != nil {
				return err
			}
		}
		for _, l := range replicatedLoads {
			r.Logf("%s", l.name)
			if err := v.compare(l, files); err != nil {
				return err
			}
		}
		return nil
	})
}

// compare runs one load on the volume and on the floor below it: as many files as it has
// replicas. For writes of more than one replica it shows one raw file too.
func (v *replicated) compare(l replicatedLoad, files []host.File) error {
	r := v.on.run
	floor := floorLane(v.on.disk, files, host.OpWrite)
	if l.verb == store.Read {
		floor = rawLane(v.on.disk, files[0], host.OpRead)
	}
	ours := func() (bench.Cost, error) {
		return l.on(v.blocks).runOn(r.Context, v, v.lane(l.verb))
	}
	on := func(lane lane) func() (bench.Cost, error) {
		return func() (bench.Cost, error) { return l.on(v.blocks).run(r.Context, v.on.disk, lane) }
	}
	rounds, err := bench.Alternate(r.Context, r.Rounds, ours, on(floor))
	if err != nil {
		return err
	}
	name, ratio := fmt.Sprintf("%s/%s/", r.Name(), l.name), l.ratio
	if len(files) == 1 {
		ratio = l.ratioOne
	}
	reported(r, rounds, name, atLeast(ratio, bench.RatioAtLeast))
	r.Report(rounds.Compare(bench.Cost.CPUPerOp).Figure(name+"cpu", "us/op", bench.None))
	r.Report(bench.Single(name+"allocs", "allocs/op", rounds.Value(bench.Cost.AllocsPerOp), bench.ValueAtMost(0.01)))
	if l.addedGoal > 0 {
		c := rounds.Compare(bench.Quantile(0.5))
		r.Report(bench.Single(name+"added", "us", c.Value-c.Baseline, bench.ValueAtMost(l.addedGoal)))
	}
	if l.verb == store.Write && len(files) > 1 {
		raw, err := bench.Alternate(r.Context, r.Rounds, ours, on(rawLane(v.on.disk, files[0], host.OpWrite)))
		if err != nil {
			return err
		}
		r.Report(raw.Compare(bench.Cost.PerSecond).Figure(name+"iops-raw", "1/s", bench.None))
	}
	return nil
}

// floorLane leads to copies of a file: an operation is done when it is on all of them.
func floorLane(d host.Disk, files []host.File, kind host.Kind) lane {
	return func(blocks int, done func(error)) func(block.Index) {
		left := 0
		var failed error
		starts := make([]func(block.Index), len(files))
		for i, f := range files {
			starts[i] = rawLane(d, f, kind)(blocks, func(err error) {
				if err != nil {
					failed = err
				}
				if left--; left == 0 {
					done(failed)
				}
			})
		}
		return func(at block.Index) {
			left = len(starts)
			for _, start := range starts {
				start(at)
			}
		}
	}
}

// replicated is a volume with replicas on nodes in this process, which talk over
// loopback, attached to the first.
type replicated struct {
	*node.BareVolume
	on     *ground
	nodes  []*replicaNode
	blocks int

	mu  sync.Mutex
	rec spec.Record
	// changed is closed when the record changes.
	changed chan struct{}
}

type replicaNode struct {
	*node.Bare
	config  node.Config
	address string
	spec    store.Spec
	dir     string
}

func newReplicated(g *ground, bytes int64, replicas int, tls bool) (*replicated, error) {
	runtime.GOMAXPROCS(runtime.NumCPU() + 1) // see host.Loop
	v := &replicated{on: g, blocks: int(bytes / block.Size), changed: make(chan struct{})}
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	cluster, err := block.NewClusterID(rand.Reader)
	if err != nil {
		return nil, err
	}
	authority, err := linktest.NewAuthority(cluster)
	if err != nil {
		return nil, err
	}
	v.rec = spec.Record{Version: 1, Size: bytes, Epoch: 1}
	if v.rec.Volume, err = block.NewVolumeID(rand.Reader); err != nil {
		return nil, err
	}
	for i := range replicas {
		n := &replicaNode{address: "127.0.0.1:0", dir: filepath.Join(g.root, g.name("node")),
			config: node.Config{Cluster: cluster, Name: fmt.Sprint("n", i+1), Records: v, Locate: v.locate, Log: quiet}}
		if n.config.Node, err = block.NewNodeID(rand.Reader); err != nil {
			return nil, err
		}
		if tls {
			if n.config.Credentials, err = authority.Issue(n.config.Node); err != nil {
				return nil, err
			}
		}
		n.spec = store.Spec{Volume: v.rec.Volume, Size: bytes}
		if n.spec.Replica, err = block.NewReplicaID(rand.Reader); err != nil {
			return nil, err
		}
		v.rec.Members = append(v.rec.Members, spec.Member{Replica: n.spec.Replica, Node: n.config.Node, State: spec.InSync})
		v.nodes = append(v.nodes, n)
		if err := os.Mkdir(n.dir, 0o700); err != nil {
			return nil, err
		}
		if err := n.start(g.ctx()); err != nil {
			return nil, err
		}
	}
	v.BareVolume, err = v.nodes[0].Attach(g.ctx(), v.rec.Clone(), 64)
	return v, err
}

// start begins the node's life, as a new process would.
func (n *replicaNode) start(ctx context.Context) (err error) {
	if n.config.Listen, err = net.Listen("tcp", n.address); err != nil {
		return err
	}
	n.address = n.config.Listen.Addr().String()
	if n.Bare, err = node.NewBare(n.config); err != nil {
		return err
	}
	return n.Open(ctx, n.dir, n.spec)
}

func (v *replicated) close() {
	for _, n := range v.nodes {
		n.Close()
	}
}

func (v *replicated) locate(_ context.Context, id block.NodeID) (string, error) {
	i := slices.IndexFunc(v.nodes, func(n *replicaNode) bool { return n.config.Node == id })
	return v.nodes[i].address, nil
}

// Swap is node.Records.Swap.
func (v *replicated) Swap(_ context.Context, next spec.Record) (bool, spec.Record, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	ok := next.Version == v.rec.Version+1
	if ok {
		v.rec = next.Clone()
		close(v.changed)
		v.changed = make(chan struct{})
	}
	return ok, v.rec.Clone(), nil
}

// await waits until so many replicas are in sync.
func (v *replicated) await(inSync int) error {
	for {
		v.mu.Lock()
		n, changed := 0, v.changed
		for _, m := range v.rec.Members {
			if m.State == spec.InSync {
				n++
			}
		}
		v.mu.Unlock()
		if n == inSync {
			return nil
		}
		select {
		case <-changed:
		case <-v.on.ctx().Done():
			return v.on.ctx().Err()
		}
	}
}

// drive is engine.drive: requests begin and end on the loop of the volume's node.
func (v *replicated) drive(p *progress) error {
	v.Do(p.begin)
	<-p.idle
	return nil
}

// lane leads to the volume, as a device would.
func (v *replicated) lane(verb store.Verb) lane {
	op, slot := attach.Write, 0
	if verb == store.Read {
		op = attach.Read
	}
	return func(blocks int, done func(error)) func(block.Index) {
		q := &attach.Request{Op: op, Slot: slot, Buf: noise(blocks), Length: int64(blocks) * block.Size, Done: func(q *attach.Request) { done(q.Err) }}
		slot++
		return func(at block.Index) {
			q.Offset = at.Offset()
			v.Backend.Submit(q)
		}
	}
}

func (v *replicated) run(l load, verb store.Verb) (bench.Cost, error) {
	return l.runOn(v.on.ctx(), v, v.lane(verb))
}

// fill writes all of the volume.
func (v *replicated) fill() error {
	_, err := v.run(once(v.blocks, fillStep).all(8, fillStep), store.Write)
	return err
}
