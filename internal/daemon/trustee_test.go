package daemon

import (
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// founded returns a node that has made a cluster, and a store with the cluster's secrets.
func founded(t *testing.T) (*NodeOptions, *trust.Wallet, *memory.Store) {
	t.Helper()
	dir := t.TempDir()
	o := &NodeOptions{Log: slog.New(slog.DiscardHandler), Config: Config{Name: "n1", Address: "127.0.0.1", DataDir: dir, EtcdPort: 7402}}
	if _, err := o.found(); err != nil {
		t.Fatal(err)
	}
	w, err := trust.OpenWallet(o.Config.trustDir())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(o.Config.foundingFile())
	if err != nil {
		t.Fatal(err)
	}
	ring, err := trust.NewKeyring(nil)
	if err != nil {
		t.Fatal(err)
	}
	s := memory.New()
	t.Cleanup(func() { _ = s.Close() })
	if _, err := s.Commit(t.Context(), state.Create(state.AuthorityKey, raw), state.Create(state.KeyringKey, ring.Marshal())); err != nil {
		t.Fatal(err)
	}
	return o, w, s
}

func TestARevokedTokenLetsNobodyIn(t *testing.T) {
	_, w, s := founded(t)
	tr, ctx := newTrustee(t.Context(), s, w), t.Context()
	token := &v1.Token{Kind: v1.TokenKind_TOKEN_KIND_API, Role: v1.Role_ROLE_USER, Subject: "ada", Created: timestamppb.Now()}
	secret, err := tr.CreateToken(ctx, token)
	if err != nil || token.Id == "" {
		t.Fatalf("%v, %v", token, err)
	}
	who, err := tr.Bearer(ctx, secret)
	if err != nil || who.Role != v1.Role_ROLE_USER || who.Subject != "ada" {
		t.Fatalf("%+v, %v", who, err)
	}
	if _, err := tr.RevokeToken(ctx, token.Id); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Bearer(ctx, secret); !fault.Is(err, fault.Denied) {
		t.Errorf("revoked: %v", err)
	}
	for _, bad := range []string{"", "x", secret[:len(secret)-4]} {
		if _, err := tr.Bearer(ctx, bad); !fault.Is(err, fault.Denied) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	join := &v1.Token{Kind: v1.TokenKind_TOKEN_KIND_JOIN, UsesMax: 1}
	if secret, err = tr.CreateToken(ctx, join); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Bearer(ctx, secret); !fault.Is(err, fault.Denied) {
		t.Errorf("a join token at the API: %v", err)
	}
	op, err := tr.Spend(ctx, secret)
	if err == nil {
		_, err = s.Commit(ctx, op)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Spend(ctx, secret); !fault.Is(err, fault.Denied) {
		t.Errorf("spent: %v", err)
	}
	if list, err := tr.ListTokens(ctx); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestACertificateIsRenewedUnderItsWallet(t *testing.T) {
	o, w, s := founded(t)
	before := w.Identity()
	if err := o.Config.renew(t.Context(), s, w); err != nil {
		t.Fatal(err)
	}
	after := w.Identity()
	if after == before || after.Node != before.Node || after.Cluster != before.Cluster {
		t.Fatal("the wallet has no new certificate of the same node")
	}
}

func TestACertificateThatLacksAnAddressIsNoticed(t *testing.T) {
	o, w, s := founded(t)
	if !o.Config.covered(w.Identity()) {
		t.Error("a new certificate lacks an address")
	}
	o.Config.Names = []string{"storage.example"}
	if o.Config.covered(w.Identity()) {
		t.Error("a new name is not noticed")
	}
	if err := o.Config.renew(t.Context(), s, w); err != nil || !o.Config.covered(w.Identity()) {
		t.Errorf("renewed, it lacks an address: %v", err)
	}
}

func TestAMachineThatTriesToJoinAgainIsTheSame(t *testing.T) {
	c := &Config{DataDir: t.TempDir()}
	first, err := c.joiningAs(identity{})
	if err != nil {
		t.Fatal(err)
	}
	if second, err := c.joiningAs(identity{}); err != nil || second != first {
		t.Errorf("%s, then %s, %v", first, second, err)
	}
	was := identity{Node: block.NodeID{1}}
	if got, err := c.joiningAs(was); err != nil || got != was.Node.String() {
		t.Errorf("one that was %s joins as %s, %v", was.Node, got, err)
	}
}

func TestWhatAnotherNodeSignsIsCertified(t *testing.T) {
	_, w, s := founded(t)
	tr := newTrustee(t.Context(), s, w)
	key, err := trust.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	node, err := block.NewNodeID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, authorities, err := tr.Certify(t.Context(), csr, node.String(), []string{"n2"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := trust.Fill(dir, key, cert, authorities); err != nil {
		t.Fatal(err)
	}
	other, err := trust.OpenWallet(dir)
	if err != nil || other.Identity().Node != node || other.Identity().Cluster != w.Identity().Cluster {
		t.Fatalf("%v", err)
	}
	if _, _, err := tr.Certify(t.Context(), []byte("x"), node.String(), nil); !fault.Is(err, fault.Invalid) {
		t.Errorf("a request that is none: %v", err)
	}
}

// TestAMachineIsKnownByItsPools takes away all that a node keeps but its pool.
func TestAMachineIsKnownByItsPools(t *testing.T) {
	o, w, _ := founded(t)
	pool := t.TempDir()
	o.Config.Pools = []string{pool}
	if err := os.WriteFile(filepath.Join(pool, "pool.json"), nil, 0o600); err != nil { // it is not looked at
		t.Fatal(err)
	}
	if err := o.pools(t.Context(), identity{Cluster: w.Identity().Cluster, Node: w.Identity().Node}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(o.Config.DataDir); err != nil {
		t.Fatal(err)
	}
	if got := o.marked(); got.Node != w.Identity().Node || got.Cluster != w.Identity().Cluster {
		t.Errorf("it is %v", got)
	}
	// Without a token it must not make a cluster of its own: its replicas are of another.
	if _, err := o.identify(t.Context()); !fault.Is(err, fault.Precondition) {
		t.Errorf("identify: %v", err)
	}
}

func TestDumpsAreKeptButNotTooMany(t *testing.T) {
	o, w, s := founded(t)
	o.Config.DumpsKept = 2
	var names []string
	for range 4 {
		name, err := o.Config.writeDump(t.Context(), s, w)
		if err != nil {
			t.Fatal(err)
		}
		if len(names) == 0 || names[len(names)-1] != name { // two may be of one millisecond
			names = append(names, name)
		}
	}
	kept, err := o.Config.Dumps()
	if err != nil || len(kept) > 2 || kept[len(kept)-1] != names[len(names)-1] {
		t.Errorf("kept %v of %v, %v", kept, names, err)
	}
	raw, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, items, err := o.Config.checkDump(raw, w); err != nil || len(items) != 2 {
		t.Errorf("%d items, %v", len(items), err)
	}
	_, stranger, _ := founded(t)
	if _, _, err := o.Config.checkDump(raw, stranger); !fault.Is(err, fault.Precondition) {
		t.Errorf("a dump of another cluster: %v", err)
	}
}

func TestRestartsOfEtcdKnowItsOwnMemberFirst(t *testing.T) {
	o, _, _ := founded(t)
	c := &o.Config
	own := c.clientURL()
	if got := c.endpoints(); len(got) != 1 || got[0] != own {
		t.Errorf("%v", got)
	}
	if err := os.WriteFile(c.endpointsFile(), []byte("https://a:1\n"+own+"\nhttps://b:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := c.endpoints(); len(got) != 3 || got[0] != own {
		t.Errorf("%v", got)
	}
}
