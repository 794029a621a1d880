package node

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/frontend"
	"github.com/holdfast-io/holdfast/internal/attach/fuse"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// Options are what a data process is told. Node, Cluster, Store, Listen, Keeper and
// Errand are needed.
type Options struct {
	Node    block.NodeID
	Cluster block.ClusterID
	Name    string // of the node, for people
	Version string // of the program, for people

	// Store is the cluster's state. It may be away for long: what is attached goes on.
	Store state.Store
	// Pools are directories that package pool has made.
	Pools []string

	// Listen is host:port for the connections of other nodes; Advertise is what they are
	// told to connect to, Listen when empty. API is the node's API address, to be told too.
	Listen, Advertise, API string
	// Credentials prove who this node is; nil is no TLS, for one machine.
	Credentials *link.Credentials

	// Keeper is the socket of the node's keeper, which runs already.
	Keeper string
	// Errand starts the program whose process calls errand.Main.
	Errand errand.Command
	// Debug is the path of a Unix socket for metrics and debug pages; "" is none.
	Debug string
	// LinkDir is where devices have their stable names; "" is attach.DefaultLinkDir.
	LinkDir string
	// ExportDir is where exports have their sockets that were not told where; "" is none.
	ExportDir string
	// ExportTLS is what exports over TCP prove who they are with, and demand of clients;
	// nil is that there are none.
	ExportTLS *tls.Config

	Lease, ReplicaTimeout time.Duration // see Config
	AliveTTL              time.Duration // how long the node counts as up after its last word; 0 is 10 s
	Wait                  time.Duration // how long I/O waits for a dead data process; 0 is attach.DefaultWait
	Log                   *slog.Logger  // nil is slog.Default
}

// Run is the data process: it returns when ctx ends, after what is attached was handed
// over to the process that comes next, or when it can't begin.
func Run(ctx context.Context, o Options) error {
	d := &daemon{o: o.withDefaults()}
	if err := d.start(ctx); err != nil {
		d.stop()
		return err
	}
	<-ctx.Done()
	d.stop()
	return nil
}

func (o Options) withDefaults() Options {
	if o.Advertise == "" {
		o.Advertise = o.Listen
	}
	if o.AliveTTL == 0 {
		o.AliveTTL = 10 * time.Second
	}
	if o.LinkDir == "" {
		o.LinkDir = attach.DefaultLinkDir
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// daemon is a running data process: a Node with what it was told by the cluster's state.
type daemon struct {
	o      Options
	kept   atomic.Pointer[keeper.Client]
	node   *Node
	view   *view
	hold   *holder
	show   *attachments
	export *exports
	left   []frontend.Device          // devices of the data process before this one
	shared func() (*fuse.Pool, error) // what devices share, made when there is one

	ctx    context.Context // of the agents
	cancel context.CancelFunc

	mu    sync.Mutex
	pools []*ownPool // that are open
	shut  []string   // paths of those that could not be opened yet
}

func (d *daemon) start(ctx context.Context) (err error) {
	d.ctx, d.cancel = context.WithCancel(context.WithoutCancel(ctx))
	// From here on the data process before this one is dead.
	k, err := keeper.Dial(ctx, d.o.Keeper)
	if err != nil {
		return err
	}
	d.kept.Store(k)
	l, err := net.Listen("tcp", d.o.Listen)
	if err != nil {
		return fault.WithCure(fault.Errorf("node.Run", fault.KindOf(err), "the data address: %w", err), "choose another address, or end what uses it")
	}
	if _, port, _ := net.SplitHostPort(d.o.Advertise); port == "0" {
		d.o.Advertise = l.Addr().String()
	}
	d.view = newView(d.ctx, d.o.Store)
	d.node, err = newNode(Config{Node: d.o.Node, Cluster: d.o.Cluster, Name: d.o.Name, Listen: l, Credentials: d.o.Credentials,
		Locate: d.view.locate, Records: stateRecords{d.o.Store}, Lease: d.o.Lease, ReplicaTimeout: d.o.ReplicaTimeout, Log: d.o.Log})
	if err != nil {
		return err
	}
	for _, path := range d.o.Pools {
		if err := d.openPool(ctx, path); err != nil {
			if ctx.Err() != nil {
				return err
			}
			d.o.Log.Error("a pool can't be opened; the node goes on without it, and tries again", "pool", path, "err", err)
			d.shut = append(d.shut, path)
		}
	}
	entries, err := k.List(ctx)
	if err != nil {
		return err
	}
	d.left = frontend.Left(entries)
	sweep := frontend.Leftovers{Node: d.o.Node, LinkDir: d.o.LinkDir, Unmount: true, Errand: d.o.Errand, Kept: entries}
	if err := sweep.Sweep(ctx); err != nil {
		d.o.Log.Warn("what a crash left can't be taken away", "err", err)
	}
	d.shared = sync.OnceValues(newShared)
	d.hold = newHolder(d)
	d.show = newAttachments(d)
	d.export = newExports(d)
	d.agents()
	return nil
}

// agents starts what acts on the cluster's state and reports to it.
func (d *daemon) agents() {
	n := d.node
	n.work(func(context.Context) { d.hold.run(d.ctx) })
	n.work(func(context.Context) { d.keep(d.ctx) })
	n.work(func(context.Context) { d.show.run(d.ctx) })
	n.work(func(context.Context) { d.report(d.ctx) })
	n.work(func(context.Context) { d.paces(d.ctx) })
	n.work(func(context.Context) { d.countSnapshots(d.ctx) })
	if d.o.Debug != "" {
		n.work(func(context.Context) { d.debugPages(d.ctx) })
	}
	n.work(func(context.Context) {
		state.KeepThere(d.ctx, d.o.Store, state.Item{Key: state.AliveKey(d.o.Node.String())}, d.o.AliveTTL, func(err error) {
			if err != nil && d.ctx.Err() == nil {
				d.o.Log.Warn("the cluster can't be told that this node is up", "err", err)
			}
		})
	})
}

// stop hands devices over and ends everything.
func (d *daemon) stop() {
	if d.show != nil {
		d.show.handOver()
		d.export.close()
	}
	if d.node != nil {
		d.leave()
	}
	d.cancel()
	if d.node != nil {
		d.node.close()
	}
	for _, p := range d.open() {
		p.pool.KeepMounted() // the next process is on its way, as a rule
		if err := p.pool.Close(); err != nil {
			d.o.Log.Warn("a pool can't be closed", "pool", p.pool.Path(), "err", err)
		}
	}
	if k := d.keeper(); k != nil {
		k.Close()
	}
}

// disk is a pool's volumes directory, on the node's loop.
type disk = host.Dir
