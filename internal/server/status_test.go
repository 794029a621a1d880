package server_test

import (
	"context"
	"strings"
	"testing"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
)

// members are those of an embedded store.
type members []*v1.MetadataMember

func (m members) Status(context.Context) (*v1.Metadata, []string) {
	return &v1.Metadata{Kind: "embedded", Reachable: true, Members: m}, nil
}

func TestStatusWarnsWhenNoMemberOfTheStoreMayBeLost(t *testing.T) {
	for _, x := range []struct {
		nodes  int
		voters members
		warns  bool
	}{
		{1, members{{Name: "n1", Healthy: true}}, false}, // it can't be otherwise
		{2, members{{Name: "n1", Healthy: true}}, true},
		{3, members{{Name: "n1", Healthy: true}, {Name: "n2", Healthy: true, Learner: true}, {Name: "n3", Healthy: true}}, true},
		{3, members{{Name: "n1", Healthy: true}, {Name: "n2", Healthy: true}, {Name: "n3", Healthy: true}}, false},
	} {
		c := servertest.Start(t, servertest.Options{Metadata: x.voters})
		c.Stage.Nodes(x.nodes)
		until(t, "known", func() bool {
			st, err := c.Client.Cluster.GetStatus(c.Ctx, &v1.GetStatusRequest{})
			return err == nil && int(st.Nodes.Total) == x.nodes
		})
		st, err := c.Client.Cluster.GetStatus(c.Ctx, &v1.GetStatusRequest{})
		c.Must(err)
		warned := false
		for _, a := range st.Attention {
			warned = warned || a.Reason == "FewVoters" && strings.Contains(a.Message, "metadata members")
		}
		if warned != x.warns {
			t.Errorf("%d nodes, voters %v: %v", x.nodes, x.voters, st.Attention)
		}
	}
}
