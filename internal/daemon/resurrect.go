package daemon

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/dump"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// resurrect makes this machine a node of the cluster that a dump is of: the node that its
// pools belong to, or else the one of its name. The dump has the cluster's authority, which
// certifies it. The control process then begins the metadata with the dump, and other
// machines join this one with the pools that they have.
func (o *NodeOptions) resurrect(was identity) (id identity, err error) {
	const op = "daemon.restore"
	c := &o.Config
	raw, err := os.ReadFile(c.Restore)
	if err != nil {
		return id, fault.Wrap(op, err)
	}
	h, items, err := dump.Read(bytes.NewReader(raw))
	if err != nil {
		return id, err
	}
	authority, err := authorityIn(items)
	if err != nil {
		return id, err
	}
	if id, err = c.nodeIn(items, authority.Cluster(), was); err != nil {
		return id, err
	}
	key, err := trust.NewKey()
	if err != nil {
		return id, err
	}
	cert, err := authority.Issue(trust.Request{Node: id.Node, PublicKey: key.Public(), Addresses: c.addresses()}, time.Now())
	if err != nil {
		return id, err
	}
	if err := replace(c.restoreFile(), raw); err != nil {
		return id, fault.Wrap(op, err)
	}
	o.Log.Warn("this machine begins its cluster again, from a dump", "cluster", id.Cluster, "node", id.Node, "of", h.Time, "items", h.Items)
	// Last, because who has a certificate is somebody.
	return id, trust.Fill(c.trustDir(), key, cert, [][]byte{authority.Certificate()})
}

// authorityIn returns the cluster's authority that is in a dump.
func authorityIn(items []state.Item) (*trust.Authority, error) {
	i := slices.IndexFunc(items, func(x state.Item) bool { return x.Key == state.AuthorityKey })
	if i < 0 {
		return nil, fault.WithCure(fault.Errorf("daemon.restore", fault.Corrupt, "the dump holds no authority of a cluster"), "choose another dump")
	}
	return trust.ParseAuthority(items[i].Value)
}

// nodeIn finds out which of the nodes that a dump knows this machine is.
func (c *Config) nodeIn(items []state.Item, cluster block.ClusterID, was identity) (id identity, err error) {
	const op = "daemon.restore"
	id = identity{Cluster: cluster, Node: was.Node}
	if !was.Node.IsZero() && was.Cluster != cluster {
		return id, fault.WithCure(fault.Errorf(op, fault.Precondition, "the pools here belong to cluster %s, the dump to cluster %s", was.Cluster, cluster), "choose a dump of the pools' cluster")
	}
	var names []string
	for _, i := range items {
		if !strings.HasPrefix(i.Key, state.Nodes.Prefix) {
			continue
		}
		e, err := state.Nodes.Decode(i)
		if err != nil {
			return id, err
		}
		this, err := block.ParseNodeID(e.ID)
		if err != nil {
			return id, fault.E(op, fault.Corrupt, block.VolumeID{}, err)
		}
		if isNode(e.Value, this, c.Name, was) {
			id.Node = this
			return id, nil
		}
		names = append(names, e.Value.GetMeta().GetName())
	}
	slices.Sort(names)
	what := fmt.Sprintf("no pool here belongs to a node, and the dump knows no node %s", c.Name)
	if !was.Node.IsZero() {
		what = fmt.Sprintf("the dump does not know node %s, to which the pools here belong", was.Node)
	}
	return id, fault.WithCure(fault.Errorf(op, fault.Precondition, "%s", what),
		"name a pool of the cluster with --pool, or one of its nodes with --name ("+strings.Join(names, ", ")+"), or choose a later dump")
}

func isNode(n *v1.Node, id block.NodeID, name string, was identity) bool {
	if was.Node.IsZero() {
		return n.GetMeta().GetName() == name
	}
	return id == was.Node
}
