package link_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
	"github.com/holdfast-io/holdfast/internal/wire/link/linktest"
)

func cluster(n byte) (id block.ClusterID) { id[0] = n; return id }

func node(n byte) (id block.NodeID) { id[0] = n; return id }

// transport is a kind of connection.
type transport struct {
	network string
	secure  bool
}

func (tr transport) String() string {
	if tr.secure {
		return tr.network + "+tls"
	}
	return tr.network
}

var transports = []transport{{"tcp", false}, {"tcp", true}, {"unix", false}, {"unix", true}}

// authority certifies the nodes of cluster 1.
var authority = sync.OnceValue(func() *linktest.Authority { return newAuthority(cluster(1)) })

func newAuthority(c block.ClusterID) *linktest.Authority {
	a, err := linktest.NewAuthority(c)
	if err != nil {
		panic(err)
	}
	return a
}

// options are those of node n of cluster 1.
func options(t testing.TB, n byte, secure bool) link.Options {
	t.Helper()
	o := link.Options{
		Self:  wire.Hello{Cluster: cluster(1), Node: node(n), Incarnation: uint64(n), Name: "node-" + string('0'+n)},
		Pool:  link.NewPool(link.PoolLimits{}),
		Clear: !secure,
		// The machine may be busy; where nobody listens to the last words, tests say less.
		LingerMax: time.Minute,
	}
	if secure {
		var err error
		if o.Credentials, err = authority().Issue(node(n)); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// listen returns a listener on a network.
func listen(t testing.TB, network string) net.Listener {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "socket")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// accepted is what Accept returned.
type accepted struct {
	conn *link.Conn
	err  error
}

// acceptOne accepts one connection in the background.
func acceptOne(l net.Listener, o link.Options) <-chan accepted {
	c := make(chan accepted, 1)
	go func() {
		nc, err := l.Accept()
		if err != nil {
			c <- accepted{nil, err}
			return
		}
		conn, err := link.Accept(context.Background(), nc, o)
		c <- accepted{conn, err}
	}()
	return c
}

// shake lets node 1, with options dial, connect to who accepts with options accept, and
// says what both make of it.
func shake(t testing.TB, network string, dial, accept link.Options, want block.NodeID) (dialed, got accepted) {
	t.Helper()
	l := listen(t, network)
	c := acceptOne(l, accept)
	dialed.conn, dialed.err = link.Dial(context.Background(), link.Target{Network: network, Address: l.Addr().String(), Node: want}, dial)
	got = patiently.From(t, c)
	for _, conn := range []*link.Conn{dialed.conn, got.conn} {
		if conn != nil {
			t.Cleanup(conn.Close)
		}
	}
	return dialed, got
}

// connect returns the two ends of a connection between node 1 and node 2.
func connect(t testing.TB, tr transport, change func(dial, accept *link.Options)) (dialed, got *link.Conn) {
	t.Helper()
	a, b := options(t, 1, tr.secure), options(t, 2, tr.secure)
	if change != nil {
		change(&a, &b)
	}
	d, g := shake(t, tr.network, a, b, node(2))
	if d.err != nil || g.err != nil {
		t.Fatalf("dialing: %v; accepting: %v", d.err, g.err)
	}
	return d.conn, g.conn
}

// running is a connection whose two goroutines run.
type running struct {
	conn        *link.Conn
	transmitted chan error // what Transmit returned
	received    chan error // what Receive returned
}

// run starts the goroutines of a connection, and waits for them when the test ends.
func run(t testing.TB, c *link.Conn, handle func(*link.Frame)) *running {
	r := &running{conn: c, transmitted: make(chan error, 1), received: make(chan error, 1)}
	var ended sync.WaitGroup
	ended.Add(2)
	go func() { defer ended.Done(); r.transmitted <- c.Transmit() }()
	go func() { defer ended.Done(); r.received <- c.Receive(handle) }()
	t.Cleanup(func() {
		c.Close()
		patiently.Return(t, ended.Wait)
	})
	return r
}

// noise is what the blocks of messages hold, apart from their first bytes.
var noise = sync.OnceValue(func() []byte {
	b := make([]byte, block.Size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // it has no errors
	return b
})

// message returns a Write of some blocks whose data depends on id.
func message(id uint64, blocks int) *wire.Write {
	m := &wire.Write{Epoch: 1, Extent: block.Extent{Start: block.Index(id), Count: uint64(blocks)},
		Sums: make([]block.Sum, blocks), Data: host.Buffer(blocks * block.Size)}
	for i := range blocks {
		b := m.Data[i*block.Size:]
		copy(b, noise())
		binary.LittleEndian.PutUint64(b, id<<16|uint64(i))
	}
	block.Checksums(m.Sums, m.Data)
	return m
}
