package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

var clusterBenchmarks = []bench.Benchmark{{
	Name: "cluster/device",
	What: "the device of a volume on three real nodes, against three parallel raw writes, and a raw file for reads",
	Run:  func(r *bench.Run) error { return benchCluster(r, "n1", "n2", "n3") },
}, {
	Name: "cluster/remote",
	What: "the device of a volume whose one replica is on another node, against a raw file",
	Run:  func(r *bench.Run) error { return benchCluster(r, "n2") },
}, {
	Name: "cluster/resync",
	What: "4 KiB random writes while a replica catches up, against undisturbed ones",
	Run:  benchDuringResync,
}, {
	Name: "cluster/faults",
	What: "the longest write when a replica's node is killed, or goes silent; time to use a volume whose node was killed",
	Run:  benchFaults,
}, {
	Name: "cluster/idle",
	What: "CPU and memory of a node with 50 idle volumes attached",
	Run:  benchIdle,
}}

const clusterBytes = 1 << 30

// job is the load as fio does it.
func (l replicatedLoad) job() bench.Fio {
	kind := map[store.Verb]string{store.Read: "read", store.Write: "write"}[l.verb]
	if !l.seq {
		kind = "rand" + kind
	}
	return bench.Fio{Kind: kind, Block: l.blocks * block.Size, Depth: l.depth}
}

// benchCluster shows what is left of the disk on the way through everything.
func benchCluster(r *bench.Run, replicas ...string) error {
	return newGround(r, int64(len(replicas))*clusterBytes+1<<30, func(g *ground) error {
		c, err := startCluster(r, 3*clusterBytes)
		if err != nil {
			return err
		}
		device, err := c.device("bench", clusterBytes, replicas...)
		if err != nil {
			return err
		}
		files := make([]host.File, len(replicas))
		for i := range files {
			if _, files[i], err = g.fullFile(clusterBytes); err != nil {
				return err
			}
		}
		ours := target{path: device, pid: c.nodes[0].pid("data")}
		for _, l := range replicatedLoads {
			r.Logf("%s", l.name)
			floor := floorLane(g.disk, files, host.OpWrite)
			if l.verb == store.Read {
				floor = rawLane(g.disk, files[0], host.OpRead)
			}
			rounds, err := bench.Alternate(r.Context, r.Rounds,
				func() (bench.Cost, error) { return ours.run(r.Context, l.job()) },
				func() (bench.Cost, error) { return l.on(clusterBytes/block.Size).run(r.Context, g.disk, floor) })
			if err != nil {
				return err
			}
			name, goal := r.Name()+"/"+l.name+"/", bench.None
			if l.name == "write-4k-qd32" && len(files) == 3 {
				goal = bench.RatioAtLeast(0.55)
			}
			reported(r, rounds, name, goal)
			r.Report(bench.Single(name+"cpu", "us/op", rounds.Value(bench.Cost.CPUPerOp), bench.None))
			if l.name == "write-4k-qd1" {
				added := rounds.Compare(bench.Quantile(0.5))
				r.Report(bench.Single(name+"added", "us", added.Value-added.Baseline, bench.ValueAtMost(200)))
			}
		}
		return nil
	})
}

// replicatedDevice starts a cluster with a full volume of three replicas on its first node.
func replicatedDevice(r *bench.Run) (*cluster, string, error) {
	c, err := startCluster(r, 3*clusterBytes)
	if err != nil {
		return nil, "", err
	}
	device, err := c.device("bench", clusterBytes, "n1", "n2", "n3")
	return c, device, err
}

func benchDuringResync(r *bench.Run) error {
	c, device, err := replicatedDevice(r)
	if err != nil {
		return err
	}
	t := target{path: device, pid: c.nodes[0].pid("data")}
	job := bench.Fio{Kind: "randwrite", Block: block.Size, Depth: 32}
	rounds, err := bench.Alternate(r.Context, r.Rounds, func() (cost bench.Cost, err error) {
		c.nodes[2].crash()
		if err = fillWithFio(r.Context, device, clusterBytes); err != nil {
			return cost, err
		}
		if err = c.nodes[2].start(3 * clusterBytes); err != nil {
			return cost, err
		}
		if err = c.await("the resync has begun", c.syncing("bench")); err != nil {
			return cost, err
		}
		if cost, err = t.run(r.Context, job); err != nil {
			return cost, err
		}
		return cost, c.awaitHealth(c.nodes[0], "bench", v1.Health_HEALTH_HEALTHY)
	}, func() (bench.Cost, error) { return t.run(r.Context, job) })
	if err != nil {
		return err
	}
	reported(r, rounds, "cluster/resync/", bench.RatioAtLeast(0.7))
	return nil
}

// syncing is the condition that a replica of the volume catches up, or has.
func (c *cluster) syncing(volume string) func(context.Context) bool {
	return func(ctx context.Context) bool {
		v, err := c.nodes[0].api.Volumes.GetVolume(ctx, &v1.GetVolumeRequest{Volume: volume})
		outdated := 0
		for _, x := range v.GetStatus().GetReplicas() {
			switch x.State {
			case v1.ReplicaState_REPLICA_STATE_SYNCING:
				return true
			case v1.ReplicaState_REPLICA_STATE_OUTDATED:
				outdated++
			}
		}
		return err == nil && outdated == 0
	}
}

// faultTime is how long writes go on around a fault.
const faultTime = 10 * time.Second

func benchFaults(r *bench.Run) error {
	c, device, err := replicatedDevice(r)
	if err != nil {
		return err
	}
	last := c.nodes[2]
	for _, f := range []struct {
		name         string
		begin, after func() error
		goal         float64 // ms
	}{
		{"killed", func() error { last.crash(); return nil }, func() error { return last.start(3 * clusterBytes) }, 1000},
		{"silent", func() error { last.signal("data", syscall.SIGSTOP); return nil }, func() error { last.signal("data", syscall.SIGCONT); return nil }, 5000},
	} {
		var longest []float64
		for range r.Rounds {
			failed := make(chan error, 1)
			time.AfterFunc(2*time.Second, func() { failed <- f.begin() })
			cost, err := bench.Fio{File: device, Kind: "randwrite", Block: block.Size, Depth: 1, Time: faultTime}.Run(r.Context)
			if err != nil {
				return err
			}
			if err := <-failed; err != nil {
				return err
			}
			if err := f.after(); err != nil {
				return err
			}
			if err := c.awaitHealth(c.nodes[0], "bench", v1.Health_HEALTH_HEALTHY); err != nil {
				return err
			}
			longest = append(longest, float64(cost.Latency.Max().Milliseconds()))
		}
		r.Report(bench.Single("cluster/faults/"+f.name, "ms", bench.Median(longest), bench.ValueAtMost(f.goal)))
	}
	took, err := c.failover("bench")
	if err != nil {
		return err
	}
	r.Report(bench.Single("cluster/faults/failover", "s", took.Seconds(), bench.ValueAtMost(10)))
	return nil
}

// failover kills the node where the volume is attached, and returns how long it took until
// a block was written on another, where it is attached at once, and not by force: nobody
// has looked whether the node is dead.
func (c *cluster) failover(volume string) (time.Duration, error) {
	began := time.Now()
	c.nodes[0].crash()
	to := c.nodes[1]
	err := c.await("the volume can be used elsewhere", func(ctx context.Context) bool {
		a, err := to.api.Attachments.Attach(ctx, &v1.AttachRequest{Volume: volume, Node: to.name, Wait: durationpb.New(clusterWait)})
		return err == nil && writeOne(a.GetStatus().GetDevice()) == nil
	})
	return time.Since(began), err
}

func writeOne(device string) error {
	f, err := os.OpenFile(device, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(host.Buffer(block.Size), 0)
	return err
}

func benchIdle(r *bench.Run) error {
	const volumes, span = 50, 10 * time.Second
	c, err := startCluster(r, 3*clusterBytes)
	if err != nil {
		return err
	}
	for i := range volumes {
		name := fmt.Sprint("idle-", i)
		if err := c.create(&v1.CreateVolumeRequest{Name: name, Spec: &v1.VolumeSpec{SizeBytes: 64 << 20, Replicas: 3}}); err != nil {
			return err
		}
		if _, err := c.nodes[0].attach(name); err != nil {
			return err
		}
	}
	<-time.After(6 * span) // what creation began ends, and what only the start needed is given back
	// The fourth, which watches over the others, is counted apart: it has nothing to do.
	processes := []string{"data", "control", "keeper"}
	before := make([]time.Duration, len(processes))
	for i, process := range processes {
		if before[i], err = (target{pid: c.nodes[0].pid(process)}).cpu(); err != nil {
			return err
		}
	}
	<-time.After(span)
	var cpu, rss float64
	for i, process := range processes {
		t := target{pid: c.nodes[0].pid(process)}
		after, err := t.cpu()
		if err != nil {
			return err
		}
		memory, err := t.rss()
		if err != nil {
			return err
		}
		share := 100 * float64(after-before[i]) / float64(span)
		r.Report(bench.Single("cluster/idle/"+process+"/cpu", "% of a core", share, bench.None))
		r.Report(bench.Single("cluster/idle/"+process+"/rss", "MiB", memory, bench.None))
		cpu, rss = cpu+share, rss+memory
	}
	watcher, err := target{pid: c.nodes[0].pid("node")}.rss()
	if err != nil {
		return err
	}
	r.Report(bench.Single("cluster/idle/watcher/rss", "MiB", watcher, bench.None))
	r.Report(bench.Single("cluster/idle/node/cpu", "% of a core", cpu, bench.ValueAtMost(2)))
	r.Report(bench.Single("cluster/idle/node/rss", "MiB", rss, bench.ValueAtMost(150)))
	return nil
}

// rss returns the resident memory of the server, in MiB.
func (t target) rss() (float64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", t.pid))
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20), err
}

// benchCloneOfVolume takes clones of a volume that is full, and attached.
func benchCloneOfVolume(r *bench.Run) error {
	c, _, err := replicatedDevice(r)
	if err != nil {
		return err
	}
	var took []float64
	for i := range r.Rounds {
		began := time.Now()
		if err := c.create(&v1.CreateVolumeRequest{Name: fmt.Sprint("clone-", i), SourceVolume: "bench"}); err != nil {
			return err
		}
		took = append(took, float64(time.Since(began).Milliseconds()))
	}
	r.Report(bench.Single("snapshot/clone/ready", "ms", bench.Median(took), bench.ValueAtMost(1000)))
	return nil
}
