package daemon

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/node"
	"github.com/holdfast-io/holdfast/internal/trust"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// leases asks this node's data process what its replicas have granted, and others whether
// they live.
type leases struct {
	socket string
	wallet *trust.Wallet
	pool   *link.Pool
}

// Vacant is server.Leases.Vacant.
func (l leases) Vacant(ctx context.Context, volume string) (bool, error) {
	return node.Vacant(ctx, l.socket, volume)
}

// answerMax is how long a data process may take to answer.
const answerMax = time.Second

// Answers is server.Leases.Answers. They must shake hands: the kernel takes connections
// for a process that hangs, or that it is still burying.
func (l leases) Answers(ctx context.Context, of, address string) bool {
	to, err := block.ParseNodeID(of)
	if err != nil {
		return false
	}
	id := l.wallet.Identity()
	conn, err := link.Dial(ctx, link.Target{Network: "tcp", Address: address, Node: to}, link.Options{
		Self: wire.Hello{Cluster: id.Cluster, Node: id.Node, Incarnation: rand.Uint64() | 1, Name: "control"}, Credentials: id.Credentials(), Pool: l.pool, HandshakeMax: answerMax})
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
