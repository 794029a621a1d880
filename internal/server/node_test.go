package server_test

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/holdfast-io/holdfast/api/client"
	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
	"github.com/holdfast-io/holdfast/internal/state/etcd/etcdtest"
)

func TestNodeIsKnownByItsCertificate(t *testing.T) {
	c := start(t, 2)
	n1 := c.AsNode(1)
	me, err := n1.Cluster.WhoAmI(c.Ctx, &v1.WhoAmIRequest{})
	c.Must(err)
	if me.Role != v1.Role_ROLE_NODE || me.NodeId != servertest.NodeID(1) || me.Method != "certificate" || me.Subject != "node n1" {
		t.Errorf("a node is %v", me)
	}
	_, err = n1.Pools.RegisterPool(c.Ctx, &v1.RegisterPoolRequest{PoolId: servertest.PoolID(7), NodeId: servertest.NodeID(1)})
	c.Must(err)
	_, err = n1.Pools.RegisterPool(c.Ctx, &v1.RegisterPoolRequest{PoolId: servertest.PoolID(8), NodeId: servertest.NodeID(2)})
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a node registers another's pool: %v", err)
	}
	_, err = n1.Nodes.CordonNode(c.Ctx, &v1.CordonNodeRequest{Node: "n2", Cordoned: true})
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("a node cordons another: %v", err)
	}
	_, err = n1.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "v", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30}, Wait: patience})
	c.Must(err)
	r, err := n1.Cluster.RenewCertificate(c.Ctx, &v1.RenewCertificateRequest{Csr: csr(t)})
	c.Must(err)
	if len(r.Certificate) == 0 {
		t.Error("there is no new certificate")
	}
	_, err = c.AsNode(9).Nodes.ListNodes(c.Ctx, &v1.ListNodesRequest{})
	if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "not in this cluster") {
		t.Errorf("a node that was removed lists: %v", err)
	}
}

func TestPeopleComeOverTLSWithTokens(t *testing.T) {
	c := start(t, 1)
	tok, err := c.Client.Cluster.CreateToken(c.Ctx, &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_API, Role: v1.Role_ROLE_VIEWER, Subject: "ann"})
	c.Must(err)
	ann := c.Dial(client.Options{Address: c.TLS, Token: tok.Secret, CAFile: c.CA})
	me, err := ann.Cluster.WhoAmI(c.Ctx, &v1.WhoAmIRequest{})
	c.Must(err)
	if me.Subject != "ann" {
		t.Errorf("ann is %v", me)
	}
	if _, err := c.Dial(client.Options{Address: c.TLS, Token: tok.Secret}).Cluster.WhoAmI(c.Ctx, &v1.WhoAmIRequest{}); err == nil {
		t.Error("a server was believed that nobody certified")
	}
}

// TestOverRealEtcd goes once through what depends on the store: races for a name, waits,
// watches, and an etcd that goes away and comes back.
func TestOverRealEtcd(t *testing.T) {
	e := etcdtest.Start(t)
	store, err := etcd.Open(etcd.Options{Endpoints: []string{e.Options.ClientURL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	c := servertest.Start(t, servertest.Options{Store: store})
	c.Stage.Nodes(3)
	v := volume(t, c, "db", 3)
	same := volume(t, c, "db", 3)
	if v.Meta.Id != same.Meta.Id {
		t.Error("the same volume twice is two")
	}
	_, err = c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n3", Wait: patience})
	c.Must(err)
	_, err = c.Client.Snapshots.CreateSnapshot(c.Ctx, &v1.CreateSnapshotRequest{Volume: "db", Name: "s", Wait: patience})
	c.Must(err)
	p, err := c.Client.Nodes.RemoveNode(c.Ctx, &v1.RemoveNodeRequest{Node: "n3", Preview: true})
	c.Must(err)
	if p.Removal.VolumesDegraded != 1 {
		t.Errorf("the preview is %v", p.Removal)
	}
	e.Close()
	got, err := c.Client.Volumes.GetVolume(c.Ctx, &v1.GetVolumeRequest{Volume: "db"})
	c.Must(err)
	if got.Status.Health != v1.Health_HEALTH_HEALTHY {
		t.Errorf("without etcd it is %v", got.Status)
	}
	e.Restart()
	until(t, "made", func() bool {
		_, err := c.Client.Volumes.CreateVolume(c.Ctx, &v1.CreateVolumeRequest{Name: "again", Spec: &v1.VolumeSpec{SizeBytes: 1 << 30, Replicas: 1}})
		return err == nil
	})
	_, err = c.Client.Attachments.Detach(c.Ctx, &v1.DetachRequest{Volume: "db", Wait: patience})
	c.Must(err)
}
