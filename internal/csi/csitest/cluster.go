// Package csitest is a cluster without Holdfast's data path, for tests of the doors: the
// real API over a state in memory, and a plane that does what control and nodes would.
// Its volumes are sparse files, its devices loop devices, its snapshots copies. So what a
// door does with devices and mounts happens in the kernel, in milliseconds.
//
// It keeps one rule of the real thing that doors depend on: a device that is in use is
// not taken away, unless its node is down.
package csitest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/emptypb"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
)

// Cluster is the API and the plane behind it.
type Cluster struct {
	Store  state.Store
	URL    string
	Client *http.Client
	Socket string // where the API is
	Nodes  []Node

	t     testing.TB
	plane *plane
}

// Node is a machine of the cluster.
type Node struct{ ID, Name, Zone string }

// Start makes a cluster of some nodes, a in zone a, b in zone b, and so on. It has no
// trash, and goes away with the test, devices and all.
func Start(t testing.TB, nodes int) *Cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cluster{Store: memory.New(), t: t}
	for i := range nodes {
		letter := string(rune('a' + i))
		c.Nodes = append(c.Nodes, Node{ID: newID(), Name: "node-" + letter, Zone: letter})
	}
	c.seed(ctx)
	c.plane = newPlane(c.Store, t.TempDir(), t.Logf)
	for _, n := range c.Nodes {
		c.plane.up[n.ID] = true
	}
	s := server.New(ctx, server.Options{Store: c.Store, NodeID: c.Nodes[0].ID, Version: "test", Log: slog.New(slog.DiscardHandler)})
	c.listen(ctx, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.plane.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		patiently.From(t, done)
		c.plane.close()
	})
	ready, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if err := s.Ready(ready); err != nil {
		t.Fatal(err)
	}
	return c
}

// listen serves the API to whoever may connect to a socket in a directory of the test.
func (c *Cluster) listen(ctx context.Context, s *server.Server) {
	socket := filepath.Join(c.t.TempDir(), "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		c.t.Fatal(err)
	}
	h := server.HTTP(s.Local())
	go func() { _ = h.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = h.Close() })
	dialer := &net.Dialer{}
	c.URL, c.Socket = "http://holdfast", socket
	c.Client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}}}
}

// seed writes the nodes, a pool on each, and settings without a trash.
func (c *Cluster) seed(ctx context.Context) {
	ops := []state.Op{state.Settings.Create(state.SettingsID, &holdfastv1.ClusterSettings{TrashKeep: durationpb.New(0)})}
	for _, n := range c.Nodes {
		pool := newID()
		ops = append(ops,
			state.Nodes.Create(n.ID, &holdfastv1.Node{Meta: &holdfastv1.Meta{Id: n.ID, Name: n.Name}, Spec: &holdfastv1.NodeSpec{Zone: n.Zone}}),
			state.Create(state.NameKey(state.KindNode, n.Name), []byte(n.ID)),
			state.NodeStatuses.Put(n.ID, &holdfastv1.NodeStatus{}),
			state.Alive.Put(n.ID, &emptypb.Empty{}),
			state.Pools.Create(pool, &holdfastv1.Pool{Meta: &holdfastv1.Meta{Id: pool, Name: "pool-" + n.Zone}, Spec: &holdfastv1.PoolSpec{NodeId: n.ID}}),
			state.Create(state.NameKey(state.KindPool, "pool-"+n.Zone), []byte(pool)),
			state.PoolStatuses.Put(pool, &holdfastv1.PoolStatus{Class: "high", Healthy: true, CapacityBytes: 100 << 30, UsedBytes: 10 << 30}),
		)
	}
	if _, err := c.Store.Commit(ctx, ops...); err != nil {
		c.t.Fatal(err)
	}
}

// Kill ends a node's lease, as its death would: what it had stays as it was. The API
// shows the node as down when Kill returns.
func (c *Cluster) Kill(node Node) {
	c.t.Helper()
	c.plane.set(node.ID, false)
	c.commit(state.Alive.Delete(node.ID, 0))
	c.shown(node, func(s holdfastv1.NodeState) bool { return s == holdfastv1.NodeState_NODE_STATE_DOWN })
}

// Revive brings a node back; the API shows it when Revive returns.
func (c *Cluster) Revive(node Node) {
	c.t.Helper()
	c.commit(state.Alive.Put(node.ID, &emptypb.Empty{}))
	c.plane.set(node.ID, true)
	c.shown(node, func(s holdfastv1.NodeState) bool { return s != holdfastv1.NodeState_NODE_STATE_DOWN })
}

// shown waits until the API, which follows the state, shows a node in a state.
func (c *Cluster) shown(node Node, so func(holdfastv1.NodeState) bool) {
	c.t.Helper()
	nodes := holdfastv1connect.NewNodeServiceClient(c.Client, c.URL)
	c.Until("the API shows "+node.Name+" as it is now", func() bool {
		n, err := nodes.GetNode(context.Background(), &holdfastv1.GetNodeRequest{Node: node.Name})
		return err == nil && so(n.GetStatus().GetState())
	})
}

// patience is how long Until waits: far longer than anything takes on a busy machine.
const patience = 2 * time.Minute

// Until waits until something is so, and fails the test where it never comes about.
func (c *Cluster) Until(what string, so func() bool) {
	c.t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-end:
			c.t.Fatalf("it does not come about within %s: %s", patience, what)
		}
	}
}

func (c *Cluster) commit(op state.Op) {
	c.t.Helper()
	if _, err := c.Store.Commit(context.Background(), op); err != nil {
		c.t.Fatal(err)
	}
}

// newID returns a random UUID.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// nodesUp is which nodes live.
type nodesUp struct {
	mu sync.Mutex
	up map[string]bool
}

func (n *nodesUp) set(id string, up bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.up[id] = up
}

func (n *nodesUp) is(id string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.up[id]
}
