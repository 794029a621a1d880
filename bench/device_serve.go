package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/fuse"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// This program starts itself again for what must be a process of its own: the one that
// serves a device, its keeper and its errands. The variable says which.
const roleEnv = "HOLDFAST_BENCH_ROLE"

const (
	roleKeeper = "keeper"
	roleErrand = "errand"
	roleDevice = "device"
)

// play is what the process does if it has a role.
func play(role string) int {
	var err error
	switch role {
	case roleKeeper:
		return keeper.Main(os.Args[1:])
	case roleErrand:
		return errand.Main()
	case roleDevice:
		err = serveDevice(os.Args[1])
	default:
		err = fault.Errorf("bench", fault.Invalid, "role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", role+":", err)
		return 1
	}
	return 0
}

// deviceConfig is what a process that serves a device is told.
type deviceConfig struct {
	Dir     string // has the keeper's socket, and gets the link
	Size    int64
	Replica string // directory of one in Dir; empty for a volume that does nothing
}

func (c deviceConfig) socket() string { return c.Dir + "/keeper.sock" }

// serveDevice serves a device until its standard input ends, and answers what it is
// asked there.
func serveDevice(raw string) error {
	var c deviceConfig
	if err := json.Unmarshal([]byte(raw), &c); err != nil {
		return err
	}
	runtime.GOMAXPROCS(runtime.NumCPU() + 1) // see host.Loop
	ctx := context.Background()
	k, err := keeper.Dial(ctx, c.socket()) // which waits for the end of the one before
	if err != nil {
		return err
	}
	loop, err := host.NewLoop(host.Options{})
	if err != nil {
		return err
	}
	backend := attach.Backend(attachtest.Null{})
	const depth = 128
	var disk *host.Dir
	if c.Replica != "" {
		if disk, err = loop.Open(c.Dir); err != nil {
			return err
		}
	}
	go loop.Run(ctx)
	if c.Replica != "" {
		if backend, err = openReplica(loop, disk, c.Replica, depth); err != nil {
			return err
		}
	}
	if err := os.Setenv(roleEnv, roleErrand); err != nil { // what it starts are errands
		return err
	}
	pool, err := fuse.NewPool(192, 32) // as a node has it
	if err != nil {
		return err
	}
	f, err := fuse.New(attach.Options{Loop: loop, Backend: backend, Node: block.NodeID{0xbe}, Name: "bench", Size: c.Size, Depth: depth, LinkDir: c.Dir},
		fuse.Config{Keeper: k, Errand: errand.Command{"/proc/self/exe"}, Pool: pool})
	if err != nil {
		return err
	}
	if err := f.Start(ctx); err != nil {
		return err
	}
	fmt.Println(f.Device().Path)
	var m runtime.MemStats
	for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
		runtime.ReadMemStats(&m)
		fmt.Println(m.Mallocs)
	}
	return f.Abort()
}

// replicaBackend is a replica as a front end's backend: one local copy, with checksums.
type replicaBackend struct {
	replica *store.Replica
	slots   []replicaSlot
}

type replicaSlot struct {
	request store.Request
	from    *attach.Request
	sums    [attach.IOBytesMax / block.Size]block.Sum
	durable bool // a flush follows
}

func openReplica(loop *host.Loop, disk host.Disk, dir string, depth int) (attach.Backend, error) {
	b := &replicaBackend{slots: make([]replicaSlot, depth)}
	for i := range b.slots {
		l := &b.slots[i]
		l.request.Done = func(*store.Request) { b.done(l) }
	}
	opened := make(chan error, 1)
	loop.Post(func() {
		store.Open(disk, dir, store.Options{}, func(r *store.Replica, err error) {
			b.replica = r
			opened <- err
		})
	})
	return b, <-opened
}

var verbs = [...]store.Verb{attach.Read: store.Read, attach.Write: store.Write, attach.Zero: store.Zero, attach.Flush: store.Flush}

// Submit is attach.Backend.Submit.
func (b *replicaBackend) Submit(r *attach.Request) {
	l := &b.slots[r.Slot]
	n := uint64(r.Length / block.Size)
	l.from, l.durable = r, r.Flags&attach.FUA != 0
	q := &l.request
	q.Verb, q.Extent = verbs[r.Op], block.Extent{Start: block.Index(r.Offset / block.Size), Count: n}
	q.Data, q.Sums, q.Err = r.Buf, nil, nil
	if r.Buf != nil {
		q.Sums = l.sums[:n]
	}
	if r.Op == attach.Write {
		block.Checksums(q.Sums, r.Buf)
	}
	b.replica.Submit(q)
}

func (b *replicaBackend) done(l *replicaSlot) {
	if l.durable && l.request.Err == nil {
		l.durable = false
		l.request.Verb, l.request.Extent, l.request.Data, l.request.Sums = store.Flush, block.Extent{}, nil, nil
		b.replica.Submit(&l.request)
		return
	}
	l.from.End(l.request.Err)
}
