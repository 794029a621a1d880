package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"

	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/store"
)

// rig is a cluster of nodes in this process, with connections over loopback, stores in
// a temporary directory, and one volume with a replica on each node.
type rig struct {
	t      *testing.T
	dir    string
	record *book
	nodes  []*rigNode
}

type rigNode struct {
	*Node
	pool    *ownPool
	g       *rig
	i       int
	id      block.NodeID
	replica block.ReplicaID
	address string
}

// book is the records.
type book struct {
	mu   sync.Mutex
	rec  spec.Record
	down bool
}

func (b *book) Swap(_ context.Context, next spec.Record) (bool, spec.Record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return false, spec.Record{}, fault.Errorf("book", fault.Unavailable, "down")
	}
	ok := next.Version == b.rec.Version+1
	if ok {
		b.rec = next.Clone()
	}
	return ok, b.rec.Clone(), nil
}

func (b *book) now() spec.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rec.Clone()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const rigSize = 64 << 20

func newRig(t *testing.T, nodes int) *rig {
	g := &rig{t: t, dir: t.TempDir(), record: &book{}}
	volume, err := block.NewVolumeID(rand.Reader)
	must(t, err)
	g.record.rec = spec.Record{Version: 1, Volume: volume, Size: rigSize, Epoch: 1}
	for i := range nodes {
		n := &rigNode{g: g, i: i}
		n.id, err = block.NewNodeID(rand.Reader)
		must(t, err)
		n.replica, err = block.NewReplicaID(rand.Reader)
		must(t, err)
		g.nodes = append(g.nodes, n)
		g.record.rec.Members = append(g.record.rec.Members, spec.Member{Replica: n.replica, Node: n.id, State: spec.InSync})
		must(t, os.Mkdir(n.root(), 0o700))
		d, err := host.Open(n.root(), host.Options{})
		must(t, err)
		made := false
		store.Create(d, volume.String(), store.Spec{Volume: volume, Replica: n.replica, Size: rigSize}, store.Options{}, func(err error) { must(t, err); made = true })
		for !made {
			d.Poll(time.Second)
		}
		d.Close()
		n.start()
	}
	t.Cleanup(func() {
		for _, n := range g.nodes {
			n.stop()
		}
	})
	return g
}

func (n *rigNode) root() string { return filepath.Join(n.g.dir, fmt.Sprint(n.i)) }

// start begins the node's process.
func (n *rigNode) start() {
	t := n.g.t
	address := n.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	must(t, err)
	if n.address == "" { // else others may be reading it
		n.address = l.Addr().String()
	}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	n.Node, err = newNode(Config{Node: n.id, Cluster: block.ClusterID{1}, Name: fmt.Sprint("n", n.i), Listen: l, Records: n.g.record,
		Lease: time.Second, ReplicaTimeout: time.Second, Log: log,
		Locate: func(_ context.Context, id block.NodeID) (string, error) {
			i := slices.IndexFunc(n.g.nodes, func(x *rigNode) bool { return x.id == id })
			return n.g.nodes[i].address, nil
		}})
	must(t, err)
	disk, err := n.loop.Open(n.root())
	must(t, err)
	n.pool = &ownPool{n: n.Node, disk: disk}
	must(t, n.pool.open(t.Context(), n.g.record.now().Volume))
}

func (n *rigNode) stop() {
	if n.Node != nil {
		n.close()
		n.Node = nil
		if !n.pool.turns.Idle() {
			n.g.t.Error("something waits for its turn at the disk of a node that has ended")
		}
	}
}

// volume is the rig's volume, attached to a node.
type volume struct {
	n    *rigNode
	node *Node
	h    *head
	b    *backend
	// stopped gets the reason when the head has stopped.
	stopped chan error
	gone    chan struct{} // closed when its node is about to be killed
}

var errGone = fault.Errorf("rig", fault.Unavailable, "the node is dead")

// die tells the volume's users that its node dies now.
func (v *volume) die() { close(v.gone) }

// live has f called on the loop of v's node, unless that is about to be killed.
func (n *rigNode) live(v *volume, f func()) bool {
	select {
	case <-v.gone:
		return false
	default:
	}
	return v.node.loop.Post(f)
}

func (n *rigNode) attach() *volume { return n.attachFrom(n.g.record) }

// attachFrom attaches the volume of the record there.
func (n *rigNode) attachFrom(of *book) *volume {
	v := &volume{n: n, node: n.Node, gone: make(chan struct{}), stopped: make(chan error, 1)}
	rec := of.now()
	serving := make(chan error, 1)
	n.do(func() {
		v.h = n.newHead(rec, &records{n: n.Node, of: of}, func(err error) { v.stopped <- err })
		v.b = newBackend(v.h, 8)
		v.h.whenServing(func(err error) { serving <- err })
	})
	must(n.g.t, patiently.From(n.g.t, serving))
	return v
}

// do carries out a request and returns its error.
func (v *volume) request(op attach.Op, offset int64, buf []byte, length int64) error {
	done := make(chan error, 1)
	r := &attach.Request{Op: op, Offset: offset, Length: length, Buf: buf}
	r.Done = func(r *attach.Request) { done <- r.Err }
	v.n.loop.Post(func() { v.b.Submit(r) })
	return patiently.From(v.n.g.t, done)
}

func (v *volume) write(offset int64, fill byte, length int) {
	v.n.g.t.Helper()
	buf := host.Buffer(length)
	copy(buf, bytes.Repeat([]byte{fill}, length))
	must(v.n.g.t, v.request(attach.Write, offset, buf, int64(length)))
}

func (v *volume) holds(offset int64, fill byte, length int) {
	v.n.g.t.Helper()
	buf := host.Buffer(length)
	must(v.n.g.t, v.request(attach.Read, offset, buf, int64(length)))
	if n := bytes.Count(buf, []byte{fill}); n != length {
		v.n.g.t.Fatalf("at %d %d of %d bytes are %d; the first is %d", offset, n, length, fill, buf[0])
	}
}

// await waits for the record to be so.
func (g *rig) await(so func(spec.Record) bool) {
	g.t.Helper()
	patiently.Until(g.t, func() error {
		if now := g.record.now(); !so(now) {
			return fmt.Errorf("the record stays %+v", now)
		}
		return nil
	})
}
