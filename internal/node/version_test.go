package node

import (
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// A node that runs a release with which this one has no version of the wire in common: the
// volume goes on without its replica, and says which node is to be upgraded.
func TestANodeOfAnotherVersionIsNamedWithTheCure(t *testing.T) {
	g := newRig(t, 2)
	v := g.nodes[0].attach()
	n := g.nodes[1]
	n.stop()
	l, err := net.Listen("tcp", n.address)
	must(t, err)
	defer l.Close()
	newer := link.Options{Self: g.nodes[0].link.Self, Clear: true, Pool: link.NewPool(link.PoolLimits{})}
	newer.Self.Node, newer.Self.Name, newer.Self.Lowest, newer.Self.Highest = n.id, "n1", wire.Highest+1, wire.Highest+2
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if conn, err := link.Accept(t.Context(), c, newer); err == nil {
				conn.Close() // it fails below
			}
		}
	}()
	v.write(0, 1, block.Size)
	patiently.True(t, "the volume names the node that is older", func() bool {
		var list []coordinator.Condition
		g.nodes[0].do(func() { list = v.h.coord.Health(v.h.n.loop.Now()) })
		return slices.ContainsFunc(list, func(c coordinator.Condition) bool {
			return c.Kind == coordinator.Degraded && strings.Contains(c.Cause, "speaks versions") && strings.Contains(c.Cause+c.Cure, "upgrade holdfast on node "+g.nodes[0].id.String())
		})
	})
}
