package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/bench"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// ground is a filesystem to measure on.
type ground struct {
	run   *bench.Run
	disk  *host.Dir
	root  string
	names int // how many were given to files and replicas
}

// newGround makes an XFS of so many bytes; after calls use with it, and takes it down.
func newGround(r *bench.Run, bytes int64, use func(*ground) error) error {
	root, err := r.XFS(bytes)
	if err != nil {
		return err
	}
	disk, err := host.Open(root, host.Options{})
	if err != nil {
		return err
	}
	defer disk.Close()
	return use(&ground{run: r, disk: disk, root: root})
}

func (g *ground) ctx() context.Context { return g.run.Context }

// name returns one that no file on the ground has.
func (g *ground) name(kind string) string {
	g.names++
	return fmt.Sprintf("%s-%d", kind, g.names)
}

// do performs disk operations one after the other.
func (g *ground) do(ops ...*host.Op) error {
	for _, op := range ops {
		if err := host.Do(g.disk, op); err != nil {
			return err
		}
	}
	return nil
}

// await calls f and waits for what it begins.
func (g *ground) await(f func(done func(error))) (err error) {
	finished := false
	f(func(e error) { finished, err = true, e })
	for !finished {
		if g.disk.Poll(-1) == 0 && g.disk.InFlight() == 0 && !finished {
			return fault.Bug("bench: nothing is in flight, and the replica is not done")
		}
	}
	return err
}

// took is await with the time that it took.
func (g *ground) took(f func(done func(error))) (time.Duration, error) {
	began := time.Now()
	err := g.await(f)
	return time.Since(began), err
}

// file opens a new file, of a size if that is not 0, for direct I/O.
func (g *ground) file(bytes int64) (name string, f host.File, err error) {
	name = g.name("file")
	open := &host.Op{Kind: host.OpOpen, Path: name, Flags: host.Create | host.Exclusive | host.Direct}
	if err := g.do(open); err != nil {
		return "", 0, err
	}
	return name, open.File, g.do(&host.Op{Kind: host.OpTruncate, File: open.File, Length: bytes})
}

// fullFile opens a new file that was written from end to end.
func (g *ground) fullFile(bytes int64) (name string, f host.File, err error) {
	if name, f, err = g.file(bytes); err != nil {
		return "", 0, err
	}
	if err = g.do(&host.Op{Kind: host.OpAllocate, File: f, Length: bytes}); err != nil {
		return "", 0, err
	}
	blocks := int(bytes / block.Size)
	if _, err = once(blocks, fillStep).all(8, fillStep).run(g.ctx(), g.disk, rawLane(g.disk, f, host.OpWrite)); err != nil {
		return "", 0, err
	}
	return name, f, g.do(&host.Op{Kind: host.OpSync, File: f})
}

// drop closes a file and removes it.
func (g *ground) drop(name string, f host.File) error {
	return g.do(&host.Op{Kind: host.OpClose, File: f}, &host.Op{Kind: host.OpRemove, Path: name})
}

// fillStep is how many blocks are written at a time by what fills a volume in order.
const fillStep = store.RequestMax / block.Size

// volume is an open replica.
type volume struct {
	*store.Replica
	on     *ground
	dir    string
	blocks int
}

// volume makes and opens a replica of so many bytes.
func (g *ground) volume(bytes int64) (*volume, error) {
	id, err := block.NewVolumeID(rand.Reader)
	if err != nil {
		return nil, err
	}
	v := &volume{on: g, dir: g.name("volume"), blocks: int(bytes / block.Size)}
	err = g.await(func(done func(error)) {
		store.Create(g.disk, v.dir, store.Spec{Volume: id, Size: bytes}, store.Options{}, done)
	})
	if err != nil {
		return nil, err
	}
	return v, v.open()
}

// fullVolume makes a replica that was written from end to end, in order.
func (g *ground) fullVolume(bytes int64) (*volume, error) {
	v, err := g.volume(bytes)
	if err != nil {
		return nil, err
	}
	if _, err := v.write(once(v.blocks, fillStep).all(8, fillStep)); err != nil {
		return nil, err
	}
	return v, v.clean()
}

func (v *volume) open() error {
	return v.on.await(func(done func(error)) {
		store.Open(v.on.disk, v.dir, store.Options{}, func(r *store.Replica, err error) {
			v.Replica = r
			done(err)
		})
	})
}

func (v *volume) write(l load) (bench.Cost, error) {
	return l.run(v.on.ctx(), v.on.disk, storeLane(v.Replica, store.Write, 0))
}

// read reads as of generation gen, 0 for the live one.
func (v *volume) read(gen block.Generation, l load) (bench.Cost, error) {
	return l.run(v.on.ctx(), v.on.disk, storeLane(v.Replica, store.Read, gen))
}

func (v *volume) flush() error {
	return v.on.await(func(done func(error)) {
		v.Submit(&store.Request{Verb: store.Flush, Done: func(q *store.Request) { done(q.Err) }})
	})
}

// clean flushes and has every region marked clean.
func (v *volume) clean() error {
	mark := v.Mark()
	if err := v.flush(); err != nil {
		return err
	}
	v.Clean(mark)
	for v.on.disk.InFlight() > 0 {
		v.on.disk.Poll(-1)
	}
	for _, info := range v.Regions(0, v.blocks/block.PerRegion) {
		if info.Dirty {
			return fault.Bug("bench: region %d is not clean", info.Region)
		}
	}
	return v.Err()
}

// snapshot returns the generation that became read-only, and how long it took.
func (v *volume) snapshot() (block.Generation, time.Duration, error) {
	gen := v.Manifest().Generation
	t, err := v.on.took(func(done func(error)) { v.Snapshot(gen, done) })
	return gen, t, err
}

// unsnap deletes a snapshot and waits until its space is free.
func (v *volume) unsnap(gen block.Generation) (time.Duration, error) {
	return v.on.took(func(done func(error)) {
		v.DeleteSnapshot(gen, func(err error) {
			if err != nil {
				done(err)
				return
			}
			v.Reclaimed(done)
		})
	})
}

// close closes the replica and removes it.
func (v *volume) close() error {
	if err := v.on.await(v.Replica.Close); err != nil {
		return err
	}
	return v.on.await(func(done func(error)) { store.Delete(v.on.disk, v.dir, done) })
}
