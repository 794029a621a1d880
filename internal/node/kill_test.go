package node

import "github.com/holdfast-io/holdfast/internal/host/patiently"

// kill ends the node as the death of its process would: nothing is flushed, saved or
// said.
func (n *rigNode) kill() {
	n.do(func() {
		for _, h := range n.heads {
			h.abandon()
		}
		for id, r := range n.residents {
			r.store.Abandon()
			delete(n.residents, id)
		}
		for c := range n.inbounds {
			c.conn.Close()
			c.channels = nil
		}
		for _, p := range n.peers {
			if p.conn != nil {
				p.conn.Close()
			}
		}
	})
	n.cancel()
	patiently.Return(n.g.t, n.working.Wait)
	n.loop.Stop()
	patiently.From(n.g.t, n.ran)
	n.loop.Close()
	n.Node = nil
}

// cut breaks every connection of the node, as a switch that restarts would.
func (n *rigNode) cut() {
	n.do(func() {
		for c := range n.inbounds {
			c.conn.Close()
		}
		for _, p := range n.peers {
			if p.conn != nil {
				p.conn.Close()
			}
		}
	})
}
