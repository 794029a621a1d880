package daemon

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/pool"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// local returns a client for the API of this node's socket.
func (c *Config) local() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", c.apiSocket())
	}}}
}

// localURL is what the URL of the socket's API is called.
const localURL = "http://holdfast"

// enroll makes the cluster know this node's cluster, if the node is making it, and its
// pools. It tries until it is done.
func (x *controller) enroll(ctx context.Context) {
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"make the cluster", x.found},
		{"register the node's pools", x.registerPools},
	} {
		for wait := restartLeast; ctx.Err() == nil; wait = min(2*wait, restartMost) {
			err := step.do(ctx)
			if err == nil {
				break
			}
			if ctx.Err() == nil {
				x.log.Warn("can't "+step.what+" yet", obs.Err(err))
			}
			pause(ctx, wait)
		}
	}
}

// found puts a cluster that this node is making into the metadata: its secrets, who it is,
// and its first node. Each part is done once, however often it is tried.
func (x *controller) found(ctx context.Context) error {
	const op = "daemon.found"
	raw, err := os.ReadFile(x.config.foundingFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.Wrap(op, err)
	}
	authority, err := trust.ParseAuthority(raw)
	if err != nil {
		return err
	}
	if err := x.foundSecrets(ctx, authority); err != nil {
		return err
	}
	cluster := &v1.Cluster{Meta: &v1.Meta{Id: authority.Cluster().String(), Name: x.config.Cluster, Created: timestamppb.Now()}}
	if _, err := server.Found(ctx, x.store, cluster); err != nil {
		return err
	}
	if err := x.foundNode(ctx); err != nil {
		return err
	}
	return fault.Wrap(op, os.Remove(x.config.foundingFile()))
}

// foundSecrets writes the authority and a keyring.
func (x *controller) foundSecrets(ctx context.Context, authority *trust.Authority) error {
	const op = "daemon.found"
	ring, err := trust.NewKeyring(nil)
	if err != nil {
		return err
	}
	_, err = x.store.Commit(ctx, state.Create(state.AuthorityKey, authority.Marshal()), state.Create(state.KeyringKey, ring.Marshal()))
	if !fault.Is(err, fault.Busy) {
		return err
	}
	there, err := state.Authority(ctx, x.store)
	if err == nil && there.Cluster() != authority.Cluster() {
		err = fault.WithCure(fault.Errorf(op, fault.Exists, "there is a cluster in this etcd already: %s", there.Cluster()),
			"let this node join that one, with --join and --token; or give it another --etcd-prefix; in both cases with an empty data directory")
	}
	return err
}

// foundNode lets the first node join as the others do, with a token that it makes.
func (x *controller) foundNode(ctx context.Context) error {
	if _, err := state.Nodes.Get(ctx, x.store, x.node()); !fault.Is(err, fault.NotFound) {
		return err // it has joined
	}
	client := holdfastv1connect.NewClusterServiceClient(x.config.local(), localURL)
	token, err := client.CreateToken(ctx, &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_JOIN, Subject: "the first node",
		Lifetime: durationpb.New(time.Hour), UsesMax: 1})
	if err != nil {
		return rpc.Fault("daemon.enroll", err)
	}
	key, err := trust.NewKey()
	if err != nil {
		return err
	}
	csr, err := trust.NewCSR(key)
	if err != nil {
		return err
	}
	c := x.config
	_, err = client.Join(ctx, &v1.JoinRequest{Token: token.GetSecret(), Csr: csr, Name: c.Name, NodeId: x.node(), Labels: c.Labels,
		Region: c.Region, Zone: c.Zone, Rack: c.Rack, Addresses: c.addresses(), PeerAddress: c.at(c.PeerPort)})
	return rpc.Fault("daemon.enroll", err)
}

// registerPools tells the cluster which pools this node has.
func (x *controller) registerPools(ctx context.Context) error {
	client := holdfastv1connect.NewPoolServiceClient(x.config.local(), localURL)
	for _, path := range x.config.Pools {
		report, err := pool.Inspect(path)
		if fault.Is(err, fault.NotFound) {
			continue // its disk is not there; it was registered when it was
		}
		if err != nil {
			return err
		}
		_, err = client.RegisterPool(ctx, &v1.RegisterPoolRequest{PoolId: report.Identity.Pool.String(), NodeId: x.node(),
			Class: string(report.Identity.Class)})
		if err != nil {
			return rpc.Fault("daemon.enroll", err)
		}
	}
	return nil
}

// renew renews the node's certificate when it is time, or when the node has an address that
// the certificate lacks.
func (x *controller) renew(ctx context.Context) {
	moved := !x.config.covered(x.wallet.Identity())
	for ctx.Err() == nil {
		if moved || time.Now().After(x.wallet.Identity().Renew()) {
			if err := x.config.renew(ctx, x.store, x.wallet); err != nil {
				x.log.Error("the node's certificate can't be renewed", "ends", x.wallet.Identity().Ends(), obs.Err(err))
			} else {
				moved = false
				x.log.Info("the node's certificate was renewed", "ends", x.wallet.Identity().Ends())
			}
		}
		pause(ctx, renewalEvery)
	}
}

// covered reports whether the certificate has all addresses of the node.
func (c *Config) covered(id *trust.Identity) bool {
	for _, address := range c.addresses() {
		if id.Certificate.Leaf.VerifyHostname(address) != nil {
			return false
		}
	}
	return true
}

// renew puts a new certificate into the node's wallet.
func (c *Config) renew(ctx context.Context, s state.Store, w *trust.Wallet) error {
	authority, err := state.Authority(ctx, s)
	if err != nil {
		return err
	}
	key, err := trust.NewKey()
	if err != nil {
		return err
	}
	cert, err := authority.Issue(trust.Request{Node: w.Identity().Node, PublicKey: key.Public(), Addresses: c.addresses()}, time.Now())
	if err != nil {
		return err
	}
	return trust.Fill(c.trustDir(), key, cert, [][]byte{authority.Certificate()})
}
