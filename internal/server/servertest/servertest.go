// Package servertest is a cluster for tests of what talks to the API: a server over a
// state in memory, and a stage on which a puppeteer plays control, nodes and heads: what
// specs ask for comes true at once, unless a test says otherwise.
package servertest

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"

	"github.com/holdfast-io/holdfast/api/client"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/memory"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// Patience is how long a test waits for what should happen at once.
const Patience = time.Minute

// Cluster is a server with its state.
type Cluster struct {
	T      *testing.T
	Store  state.Store
	Server *server.Server
	Stage  *Stage
	Ctx    context.Context
	Socket string // of administrators
	TCP    string // URL, without TLS, where callers prove who they are
	TLS    string // URL, with TLS, likewise
	CA     string // file with the cluster's authority
	Client *client.Client
}

// Options change what Start starts.
type Options struct {
	Store  state.Store // nil: in memory
	Now    func() time.Time
	Blocks server.ChangedBlocks
	Others server.Others
	Leases server.Leases
	// Devices is what is known of what is attached to the server's node.
	Devices server.Devices
	// Metadata is what is known of the state's store.
	Metadata server.Metadata
	NodeID   string // of the server's node
	Data     string // see server.Options
	Traces   trace.TracerProvider
	Still    bool // nobody plays control and nodes
}

// Start starts a server, which ends with the test.
func Start(t *testing.T, o Options) *Cluster {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	c := &Cluster{T: t, Store: o.Store, Ctx: ctx}
	if c.Store == nil {
		m := memory.New()
		t.Cleanup(func() { _ = m.Close() })
		c.Store = m
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	trusted := c.found(o.Now)
	self := c.identity(99)
	trusted.peer = self.Peer
	c.Server = server.New(ctx, server.Options{Store: c.Store, Version: "test", Trust: trusted, Blocks: o.Blocks, Others: o.Others, Leases: o.Leases, Devices: o.Devices, Metadata: o.Metadata, NodeID: o.NodeID, Data: o.Data, Traces: o.Traces, Now: o.Now})
	c.Socket = filepath.Join(t.TempDir(), "api.sock")
	c.serve("unix", c.Socket, c.Server.Local())
	c.TCP = "http://" + c.serve("tcp", "127.0.0.1:0", c.Server)
	c.TLS = "https://" + c.serveTLS(self)
	c.Client = c.Dial(client.Options{Address: "unix://" + c.Socket})
	c.Stage = &Stage{c: c, refusals: map[string]string{}}
	if !o.Still {
		go c.Stage.play(ctx)
	}
	return c
}

// found founds the cluster: its name, its authority, its keyring.
func (c *Cluster) found(now func() time.Time) *guard {
	c.T.Helper()
	id := block.ClusterID{1}
	authority, err := trust.NewAuthority(id, now())
	c.Must(err)
	keyring, err := trust.NewKeyring(nil)
	c.Must(err)
	c.Commit(state.Put(state.AuthorityKey, authority.Marshal()), state.Put(state.KeyringKey, keyring.Marshal()))
	_, err = server.Found(c.Ctx, c.Store, &v1.Cluster{Meta: &v1.Meta{Id: id.String(), Name: "test"}})
	c.Must(err)
	g, err := newGuard(c.Ctx, c.Store, now, nil)
	c.Must(err)
	return g
}

// identity certifies a node of the cluster.
func (c *Cluster) identity(n int) *trust.Identity {
	c.T.Helper()
	authority, err := state.Authority(c.Ctx, c.Store)
	c.Must(err)
	node, err := block.ParseNodeID(NodeID(n))
	c.Must(err)
	key, err := trust.NewKey()
	c.Must(err)
	certificate, err := authority.Issue(trust.Request{Node: node, PublicKey: key.Public(), Addresses: []string{"127.0.0.1"}}, time.Now())
	c.Must(err)
	dir := c.T.TempDir()
	c.Must(trust.Fill(dir, key, certificate, [][]byte{authority.Certificate()}))
	wallet, err := trust.OpenWallet(dir)
	c.Must(err)
	c.CA = wallet.AuthoritiesFile()
	return wallet.Identity()
}

// serveTLS serves the API as a node does, until the test ends.
func (c *Cluster) serveTLS(self *trust.Identity) string {
	c.T.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	c.Must(err)
	s := server.HTTP(c.Server)
	s.TLSConfig = self.Server(true)
	s.ErrorLog = log.New(io.Discard, "", 0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.ServeTLS(listener, "", "") // it ends when it is closed
	}()
	c.T.Cleanup(func() { _ = s.Close(); patiently.From(c.T, done) })
	return listener.Addr().String()
}

// AsNode makes a client with a node's certificate.
func (c *Cluster) AsNode(n int) *client.Client {
	c.T.Helper()
	return c.Dial(client.Options{Address: c.TLS, TLS: c.identity(n).Client()})
}

// serve serves a handler until the test ends, and returns the address.
func (c *Cluster) serve(network, address string, h http.Handler) string {
	c.T.Helper()
	listener, err := net.Listen(network, address)
	c.Must(err)
	s := server.HTTP(h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(listener) // it ends when it is closed
	}()
	c.T.Cleanup(func() { _ = s.Close(); patiently.From(c.T, done) })
	return listener.Addr().String()
}

// Dial makes a client, which ends with the test.
func (c *Cluster) Dial(o client.Options) *client.Client {
	c.T.Helper()
	cl, err := client.Dial(o)
	c.Must(err)
	c.T.Cleanup(cl.Close)
	return cl
}

// As makes a client over TCP with a token of a role.
func (c *Cluster) As(role v1.Role) *client.Client {
	c.T.Helper()
	r, err := c.Client.Cluster.CreateToken(c.Ctx, &v1.CreateTokenRequest{Kind: v1.TokenKind_TOKEN_KIND_API, Role: role, Subject: role.String()})
	c.Must(err)
	return c.Dial(client.Options{Address: c.TCP, Token: r.Secret})
}

// Must ends the test when something that can't fail did.
func (c *Cluster) Must(err error) {
	c.T.Helper()
	if err != nil {
		c.T.Fatal(err)
	}
}

// Commit commits ops.
func (c *Cluster) Commit(ops ...state.Op) state.Revision {
	c.T.Helper()
	at, err := c.Store.Commit(c.Ctx, ops...)
	c.Must(err)
	return at
}

// Transport returns an HTTP client that connects to the socket whatever the address.
func (c *Cluster) Transport() *http.Client {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
	}}
	c.T.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}
