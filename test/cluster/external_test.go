package cluster_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/state/etcd/etcdtest"
	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// stranger makes certificates of an authority that has nothing to do with the cluster, in a
// wallet.
func stranger(t *testing.T, address string) *trust.Wallet {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	cluster, err := block.NewClusterID(rand.Reader)
	must(err)
	node, err := block.NewNodeID(rand.Reader)
	must(err)
	a, err := trust.NewAuthority(cluster, time.Now())
	must(err)
	key, err := trust.NewKey()
	must(err)
	cert, err := a.Issue(trust.Request{Node: node, PublicKey: key.Public(), Addresses: []string{address}}, time.Now())
	must(err)
	dir := t.TempDir()
	must(trust.Fill(dir, key, cert, [][]byte{a.Certificate()}))
	w, err := trust.OpenWallet(dir)
	must(err)
	return w
}

// TestAnEtcdOfYoursMayWantCertificatesAndPasswords keeps the metadata in an etcd that
// speaks TLS only, believes certificates of its own authority only, and has users.
func TestAnEtcdOfYoursMayWantCertificatesAndPasswords(t *testing.T) {
	c := newCluster(t, 1)
	n, address := c.nodes[0], etcdtest.Address()
	w := stranger(t, address)
	url := member.URL(true, address, 2379)
	server, err := member.Start(t.Context(), member.Options{Dir: t.TempDir(), Name: address, Token: address, Volatile: true, Wallet: w,
		PeerURL: member.URL(true, address, 2380), ClientURL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, TLS: w.Client(), Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx := t.Context()
	for _, do := range []func() error{
		func() error { _, err := admin.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := admin.UserAdd(ctx, "holdfast", "hush"); return err },
		func() error { _, err := admin.RoleAdd(ctx, "storage"); return err },
		func() error {
			_, err := admin.RoleGrantPermission(ctx, "storage", "/storage/", clientv3.GetPrefixRangeEnd("/storage/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := admin.UserGrantRole(ctx, "holdfast", "storage"); return err },
		func() error { _, err := admin.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	password := filepath.Join(c.dir, "password")
	if err := os.WriteFile(password, []byte("hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start("--etcd-endpoints", url, "--etcd-prefix", "/storage", "--etcd-ca", w.AuthoritiesFile(), "--etcd-cert", w.NodeFile(), "--etcd-key", w.NodeFile(),
		"--etcd-user", "holdfast", "--etcd-password-file", password)
	n.ready(1)
	c.await("the metadata", func() error {
		s, err := n.cluster().GetStatus(ctx, &v1.GetStatusRequest{})
		if err == nil && (s.GetMetadata().GetKind() != "external" || !s.GetMetadata().GetReachable()) {
			err = fmt.Errorf("%v", s.GetMetadata())
		}
		return err
	})
	n.stop()
}
