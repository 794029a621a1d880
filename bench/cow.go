package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// cowBenchmarks are the ways to write a block for the first time in a generation that
// docs/decisions/0002 chose from.
var cowBenchmarks = []bench.Benchmark{{
	Name: "cow/first-write",
	What: "ways to give blocks a new place, filled at random, against overwriting a file",
	Run:  benchWays,
}, {
	Name: "cow/50-generations",
	What: "50 generations by reflink and by the store: reads against a plain file, deletion",
	Run:  benchChains,
}}

const cowBytes = 128 << 20

// way prepares a file and returns how to write to it; undo removes what is left.
type way struct {
	name    string
	prepare func(*ground) (lane lane, undo func() error, err error)
}

var ways = []way{
	{"reflinked-file", (*ground).reflinked},
	{"sparse-file", func(g *ground) (lane, func() error, error) { return g.sparse(0) }},
	{"sparse-file-extents-64k", func(g *ground) (lane, func() error, error) { return g.sparse(64 << 10) }},
	{"sparse-file-extents-1m", func(g *ground) (lane, func() error, error) { return g.sparse(1 << 20) }},
	{"preallocated-file", (*ground).preallocated},
	{"slots-in-order-of-arrival", (*ground).arriving},
	{"store", (*ground).snapped},
}

// benchWays writes every block once, at random, 32 at a time.
func benchWays(r *bench.Run) error {
	return newGround(r, 2<<30, func(g *ground) error {
		name, file, err := g.fullFile(cowBytes)
		if err != nil {
			return err
		}
		load := func() load { return shuffled(cowBytes/block.Size, cowBytes/block.Size).all(32, 1) }
		turns := []func() (bench.Cost, error){
			func() (bench.Cost, error) { return load().run(g.ctx(), g.disk, rawLane(g.disk, file, host.OpWrite)) },
		}
		for _, w := range ways {
			turns = append(turns, func() (bench.Cost, error) {
				r.Logf("%s", w.name)
				lane, undo, err := w.prepare(g)
				if err != nil {
					return bench.Cost{}, err
				}
				c, err := load().run(g.ctx(), g.disk, lane)
				if err != nil {
					return c, err
				}
				return c, undo()
			})
		}
		samples, err := rotate(r.Context, r.Rounds, turns...)
		if err != nil {
			return err
		}
		for i, w := range ways {
			rounds := bench.Rounds[bench.Cost]{Subject: samples[i+1], Baseline: samples[0]}
			r.Report(rounds.Compare(bench.Cost.PerSecond).Figure("cow/first-write/"+w.name+"/iops", "1/s", bench.None))
			r.Report(rounds.Compare(longest).Figure("cow/first-write/"+w.name+"/longest", "ms", bench.None))
		}
		return g.drop(name, file)
	})
}

// sparse is a file of holes, which XFS fills with extents of at least so many bytes, if
// that is not 0.
func (g *ground) sparse(extents uint32) (lane, func() error, error) {
	name, f, err := g.file(cowBytes)
	if err == nil && extents > 0 {
		err = setExtentSize(filepath.Join(g.root, name), extents)
	}
	return rawLane(g.disk, f, host.OpWrite), func() error { return g.drop(name, f) }, err
}

// preallocated is a file in which every block has its place already.
func (g *ground) preallocated() (lane, func() error, error) {
	name, f, err := g.file(cowBytes)
	if err == nil {
		err = g.do(&host.Op{Kind: host.OpAllocate, File: f, Length: cowBytes})
	}
	return rawLane(g.disk, f, host.OpWrite), func() error { return g.drop(name, f) }, err
}

// arriving is a file that is preallocated a little ahead, in which a block's place is
// where the block before ended.
func (g *ground) arriving() (lane, func() error, error) {
	const step = 1024 // blocks allocated at a time
	name, f, err := g.file(cowBytes)
	if err == nil {
		err = g.do(&host.Op{Kind: host.OpAllocate, File: f, Length: step * block.Size})
	}
	next, allocated := block.Index(0), block.Index(step)
	raw := rawLane(g.disk, f, host.OpWrite)
	return func(blocks int, done func(error)) func(block.Index) {
		start := raw(blocks, done)
		return func(block.Index) {
			if next+step/2 > allocated && allocated.Offset() < cowBytes {
				g.disk.Submit(&host.Op{Kind: host.OpAllocate, File: f, Offset: allocated.Offset(), Length: step * block.Size, Done: func(*host.Op) {}})
				allocated += step
			}
			start(next)
			next++
		}
	}, func() error { return g.drop(name, f) }, err
}

// reflinked is a full file that shares every block with another one.
func (g *ground) reflinked() (lane, func() error, error) {
	name, f, err := g.fullFile(cowBytes)
	if err != nil {
		return nil, nil, err
	}
	_, err = g.reflink(name, name+"-before")
	return rawLane(g.disk, f, host.OpWrite), func() error {
		return g.do(&host.Op{Kind: host.OpRemove, Path: name + "-before"}, &host.Op{Kind: host.OpClose, File: f}, &host.Op{Kind: host.OpRemove, Path: name})
	}, err
}

// snapped is a full volume with a snapshot.
func (g *ground) snapped() (lane, func() error, error) {
	v, err := g.fullVolume(cowBytes)
	if err != nil {
		return nil, nil, err
	}
	if _, _, err = v.snapshot(); err != nil {
		return nil, nil, err
	}
	return storeLane(v.Replica, store.Write, 0), v.close, nil
}

// reflink makes a new file that shares the blocks of name, and returns how long that
// took.
func (g *ground) reflink(name, to string) (time.Duration, error) {
	from, err := os.Open(filepath.Join(g.root, name))
	if err != nil {
		return 0, err
	}
	defer from.Close()
	f, err := os.OpenFile(filepath.Join(g.root, to), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	began := time.Now()
	err = unix.IoctlFileClone(int(f.Fd()), int(from.Fd()))
	return time.Since(began), fault.Wrap("bench.Reflink", err)
}

// setExtentSize makes XFS allocate so many bytes at a time in an empty file.
func setExtentSize(path string, bytes uint32) error {
	// linux/fs.h
	attributes := struct {
		flags, extentSize, extents, project, cowExtentSize uint32
		_                                                  [8]byte
	}{flags: 1 << 11, extentSize: bytes}
	const set = 1<<30 | unsafe.Sizeof(attributes)<<16 | 'X'<<8 | 32
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := syscall.Syscall(unix.SYS_IOCTL, f.Fd(), set, uintptr(unsafe.Pointer(&attributes))); errno != 0 {
		return fault.Errorf("bench.ExtentSize", fault.KindOf(errno), "%s: %w", path, errno)
	}
	return nil
}

// benchChains makes as many generations as store/50-snapshots, each with the same share
// of blocks written, in a file that is reflinked for each, and in a volume.
func benchChains(r *bench.Run) error {
	return newGround(r, 2<<30, func(g *ground) error {
		plainName, plain, err := g.fullFile(cowBytes)
		if err != nil {
			return err
		}
		chain, err := g.newChain()
		if err != nil {
			return err
		}
		v, gens, err := g.snappedOften()
		if err != nil {
			return err
		}
		blocks := cowBytes / block.Size
		read := workloads[1]
		for name, lane := range map[string]lane{
			"reflink": rawLane(g.disk, chain.file, host.OpRead),
			"store":   storeLane(v.Replica, store.Read, 0),
		} {
			rounds, err := bench.Alternate(r.Context, r.Rounds,
				func() (bench.Cost, error) { return read.load(blocks).run(g.ctx(), g.disk, lane) },
				read.onFile(g, plain, blocks))
			if err != nil {
				return err
			}
			r.Report(rounds.Compare(bench.Cost.PerSecond).Figure("cow/50-generations/"+name+"/read-4k-qd32", "1/s", bench.None))
		}
		r.Report(bench.Single("cow/50-generations/reflink/longest-clone", "ms", milliseconds(chain.longest), bench.None))
		if err := reportRemoval(r, g, chain, v, gens); err != nil {
			return err
		}
		if err := g.drop(chain.name, chain.file); err != nil {
			return err
		}
		return g.drop(plainName, plain)
	})
}

// chain is a file, and what it was in each generation.
type chain struct {
	name    string
	file    host.File
	before  []string
	longest time.Duration // that making a generation took
}

func (g *ground) newChain() (c chain, err error) {
	if c.name, c.file, err = g.fullFile(cowBytes); err != nil {
		return c, err
	}
	for range historySnapshots {
		if err := someOf(cowBytes/block.Size).write(g, rawLane(g.disk, c.file, host.OpWrite)); err != nil {
			return c, err
		}
		before := g.name("before")
		took, err := g.reflink(c.name, before)
		if err != nil {
			return c, err
		}
		c.before, c.longest = append(c.before, before), max(c.longest, took)
	}
	return c, nil
}

// snappedOften is the same as newChain by the store.
func (g *ground) snappedOften() (v *volume, gens []block.Generation, err error) {
	if v, err = g.fullVolume(cowBytes); err != nil {
		return nil, nil, err
	}
	for range historySnapshots {
		if err := someOf(v.blocks).write(g, storeLane(v.Replica, store.Write, 0)); err != nil {
			return nil, nil, err
		}
		gen, _, err := v.snapshot()
		if err != nil {
			return nil, nil, err
		}
		gens = append(gens, gen)
	}
	return v, gens, nil
}

// someOf is the load that writes the share of blocks that a generation has.
func someOf(blocks int) load { return shuffled(blocks, blocks/historyShare).all(32, 1) }

func (l load) write(g *ground, lane lane) error {
	_, err := l.run(g.ctx(), g.disk, lane)
	return err
}

func reportRemoval(r *bench.Run, g *ground, c chain, v *volume, gens []block.Generation) error {
	var byReflink, byStore []float64
	rand.Shuffle(len(gens), func(i, j int) {
		gens[i], gens[j] = gens[j], gens[i]
		c.before[i], c.before[j] = c.before[j], c.before[i]
	})
	for i, gen := range gens {
		began := time.Now()
		if err := g.do(&host.Op{Kind: host.OpRemove, Path: c.before[i]}, &host.Op{Kind: host.OpSyncDir, Path: "."}); err != nil {
			return err
		}
		byReflink = append(byReflink, milliseconds(time.Since(began)))
		took, err := v.unsnap(gen)
		if err != nil {
			return err
		}
		byStore = append(byStore, milliseconds(took))
	}
	r.Report(bench.Single("cow/50-generations/reflink/deletion", "ms/generation", bench.Median(byReflink), bench.None))
	r.Report(bench.Single("cow/50-generations/store/deletion", "ms/generation", bench.Median(byStore), bench.None))
	return v.close()
}
