package node

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/replica"
	"github.com/holdfast-io/holdfast/internal/store"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// Config says who a node is and how patient. Node, Cluster, Listen, Locate and Records
// are needed.
type Config struct {
	Node    block.NodeID
	Cluster block.ClusterID
	Name    string // for people

	Listen      net.Listener      // where other nodes connect to; the Node closes it
	Credentials *link.Credentials // nil is no TLS: for tests and benchmarks on one machine

	// Locate finds the data address of another node. It may wait, as long as ctx lasts.
	Locate  func(ctx context.Context, node block.NodeID) (string, error)
	Records Records

	// Lease is what coordinators ask of replicas, ReplicaTimeout the silence after which
	// they leave one behind; 0 is 3 s each: a volume whose node died can be used on
	// another after the first, a volume whose replica went silent after the second.
	Lease, ReplicaTimeout time.Duration

	Log *slog.Logger // nil is slog.Default
}

func (o Config) withDefaults() Config {
	if o.Lease == 0 {
		o.Lease = 3 * time.Second
	}
	if o.ReplicaTimeout == 0 {
		o.ReplicaTimeout = 3 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// Node is a data process's heads, replicas and connections. Fields below "the loop's"
// are touched on its goroutine only.
type Node struct {
	o           Config
	log         *slog.Logger
	loop        *host.Loop
	incarnation uint64
	boot        uint64
	frames      *link.Pool
	link        link.Options
	ops         ops
	late        late

	ctx     context.Context
	cancel  context.CancelFunc
	working sync.WaitGroup
	ran     chan struct{}

	troubled chan struct{} // has a value when a replica has failed

	// The loop's.
	residents map[block.ReplicaID]*resident
	heads     map[block.VolumeID]*head
	peers     map[block.NodeID]*peer
	inbounds  map[*inbound]bool
	sessions  replica.Session
	shared    store.Shared        // what open replicas take together
	resyncs   coordinator.Resyncs // what all of the heads' may do together
	dirty     []*link.Conn        // have something queued
	flushing  bool                // flushDirty is posted
	flush     func()              // flushDirty: made once, because a method value is an allocation
	clock     *host.Timer
}

// handshakesMax is how many connections may shake hands at once.
const handshakesMax = 16

// newNode starts a node without replicas and heads. Close ends it.
func newNode(o Config) (*Node, error) {
	o = o.withDefaults()
	loop, err := host.NewLoop(host.Options{Inbox: 8192})
	if err != nil {
		return nil, err
	}
	n := &Node{o: o, log: o.Log.With("node", o.Name), loop: loop, incarnation: randomNumber(), boot: host.Boot(),
		frames:    link.NewPool(link.PoolLimits{BytesMax: 256 << 20, FramesMax: 16384}),
		residents: make(map[block.ReplicaID]*resident), heads: make(map[block.VolumeID]*head),
		peers: make(map[block.NodeID]*peer), inbounds: make(map[*inbound]bool), ran: make(chan struct{})}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.troubled = make(chan struct{}, 1)
	n.late.post, n.flush = loop.TryPost, n.flushDirty
	n.link = link.Options{
		Self:        wire.Hello{Cluster: o.Cluster, Node: o.Node, Incarnation: n.incarnation, Boot: n.boot, Name: o.Name},
		Credentials: o.Credentials, Clear: o.Credentials == nil, Pool: n.frames, UnackedMax: 10 * time.Second,
	}
	n.clock = loop.NewTimer(n.tick)
	go func() {
		defer close(n.ran)
		loop.Run(context.Background())
	}()
	loop.Post(n.tick)
	n.work(n.accept)
	return n, nil
}

func randomNumber() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:]) | 1
}

// tick does what only time can cause.
func (n *Node) tick() {
	now := n.loop.Now()
	for _, p := range n.peers {
		p.silence(now, n.o.ReplicaTimeout)
		p.roomAgain() // if it was said when the loop's inbox was full
	}
	for c := range n.inbounds {
		c.goOn() // likewise
	}
	n.late.drain()
	n.paceResyncs()
	every := n.o.ReplicaTimeout / 6
	n.clock.Set((now/every + 1) * every) // together with the heads, which tick at such times
}

// trouble has the node look at its pools soon: a replica failed.
func (n *Node) trouble() {
	select {
	case n.troubled <- struct{}{}:
	default: // it is about to
	}
}

// work runs f on a goroutine that Close waits for. Its context ends with the node.
func (n *Node) work(f func(ctx context.Context)) {
	n.working.Add(1)
	go func() {
		defer n.working.Done()
		f(n.ctx)
	}()
}

// do runs f on the loop and waits for it; false when the loop has ended.
func (n *Node) do(f func()) bool {
	done := make(chan struct{})
	if !n.loop.Post(func() { defer close(done); f() }) {
		return false
	}
	<-done
	return true
}

// accept takes connections until the node ends.
func (n *Node) accept(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = n.o.Listen.Close() })
	defer stop()
	room := make(chan struct{}, handshakesMax)
	for {
		nc, err := n.o.Listen.Accept()
		if ctx.Err() != nil {
			return
		}
		if err != nil { // such as too many open files: it passes
			n.log.Error("no connection can be taken", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		room <- struct{}{}
		n.work(func(ctx context.Context) {
			o := n.link
			o.QueueBytesMax, o.QueueFramesMax = answersMax, answersMax/1024
			conn, err := link.Accept(ctx, nc, o)
			<-room
			if err != nil {
				n.log.Warn("a connection was refused", "from", nc.RemoteAddr(), "err", err)
				return
			}
			if !n.loop.Post(func() { n.accepted(conn) }) {
				conn.Close()
			}
		})
	}
}

func (n *Node) accepted(conn *link.Conn) {
	c := &inbound{n: n, conn: conn, channels: make(map[uint32]*channel)}
	goOn := c.goOn
	c.debt.again = func() { n.loop.TryPost(goOn) }
	n.inbounds[c] = true
	n.serve(conn, c.received, c.over)
}

// serve runs a connection: received and over are called on the loop.
func (n *Node) serve(conn *link.Conn, received func(*link.Frame), over func()) {
	n.work(func(context.Context) { _ = conn.Transmit() }) // Receive tells
	n.work(func(ctx context.Context) {
		stop := context.AfterFunc(ctx, conn.Close)
		defer stop()
		err := conn.ReceiveOn(n.loop, received)
		if err != nil && !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.Canceled) { // Canceled: who closed it says why
			n.log.Warn("a connection has ended", "peer", conn.Peer().Name, "err", err)
		}
		n.loop.Post(over)
	})
}

// flushLater has what was queued on the connection sent at the end of this turn, with
// what else is queued until then.
func (n *Node) flushLater(conn *link.Conn) {
	for _, c := range n.dirty {
		if c == conn {
			return
		}
	}
	n.dirty = append(n.dirty, conn)
	if !n.flushing {
		n.flushing = true
		if !n.loop.TryPost(n.flush) {
			n.flush()
		}
	}
}

func (n *Node) flushDirty() {
	n.flushing = false
	for i, c := range n.dirty {
		c.Flush()
		n.dirty[i] = nil
	}
	n.dirty = n.dirty[:0]
}

// close ends the node: heads stop, without detaching, and replicas are closed.
func (n *Node) close() {
	closed := make(chan struct{})
	n.loop.Post(func() {
		for _, h := range n.heads {
			h.abandon()
		}
		left := 1
		done := func(error) {
			if left--; left == 0 {
				close(closed)
			}
		}
		for _, r := range n.residents {
			left++
			r.close(done)
		}
		done(nil)
	})
	<-closed
	n.cancel()
	n.working.Wait()
	n.loop.Stop()
	<-n.ran
	n.loop.Close()
}
