package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/control"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/server"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
	"github.com/holdfast-io/holdfast/internal/trust"
	"github.com/holdfast-io/holdfast/internal/wire/link"

	"google.golang.org/protobuf/proto"
)

// controller is the control process of a node.
type controller struct {
	config  *Config
	wallet  *trust.Wallet
	store   *etcd.Store
	trustee *trustee
	version string
	log     *slog.Logger
}

// hangUpMax is how long calls of the API may go on when the process ends.
const hangUpMax = 2 * time.Second

// presenceTTL is how long a control process counts as there after its last word.
const presenceTTL = 10 * time.Second

// Control is the control process of a node. It returns when ctx ends, or when it can't
// begin.
func Control(ctx context.Context, o ChildOptions) error {
	c, w, err := o.load()
	if err != nil {
		return err
	}
	lock, err := lockControl(c)
	if err != nil {
		return err
	}
	defer lock.Close()
	log := o.Log.With("process", "control")
	if err := c.restorePending(ctx, w, log); err != nil {
		return err
	}
	store, err := c.openStore(w)
	if err != nil {
		return err
	}
	defer store.Close()
	thrifty()
	go settle(ctx, log)
	x := &controller{config: c, wallet: w, store: store, version: o.Version, log: log}
	return x.run(ctx)
}

// lockControl keeps a second control process, and tools that need it to be away, from the
// node's metadata.
func lockControl(c *Config) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(c.DataDir, "control.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap("daemon.Control", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.Errorf("daemon.Control", fault.Busy, "another control process runs in %s", c.DataDir)
	}
	return f, nil
}

// run does what a control process does, until ctx ends. The member of etcd ends last, when
// nothing needs it any more.
func (x *controller) run(ctx context.Context) error {
	l, err := x.listen()
	if err != nil {
		return err
	}
	defer l.close()
	memberCtx, stopMember := context.WithCancel(context.WithoutCancel(ctx))
	var members sync.WaitGroup
	defer members.Wait()
	defer stopMember()
	if x.hasMember() {
		members.Go(func() { x.agent().Run(memberCtx) })
	}
	return x.work(ctx, l)
}

// work serves the API and does everything else that needs the store.
func (x *controller) work(ctx context.Context, l *listeners) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x.trustee = newTrustee(ctx, x.store, x.wallet)
	traces, flush, err := obs.Traces(ctx, os.Getenv, x.node(), x.version)
	if err != nil {
		return err
	}
	defer func() { _ = flush(context.WithoutCancel(ctx)) }() // what can't be sent is lost: it is only for looking
	api := server.New(ctx, server.Options{Store: x.store, Traces: traces, NodeID: x.node(), Version: x.version, Trust: x.trustee,
		Metadata: x.metadata(), Blocks: blocks{x.config.debugSocket()}, Others: &others{wallet: x.wallet}, Devices: devices{x.config.debugSocket()}, Leases: leases{x.config.debugSocket(), x.wallet, link.NewPool(link.PoolLimits{})}, Data: x.config.debugSocket(), Log: x.log})
	serving := l.serve(ctx, api)
	var group sync.WaitGroup
	group.Go(func() { x.enroll(ctx) })
	group.Go(func() { x.present(ctx) })
	group.Go(func() { x.renew(ctx) })
	group.Go(func() { x.expel(ctx) })
	group.Go(func() { x.dump(ctx) })
	group.Go(func() { control.Run(ctx, x.store, control.Options{Node: x.node(), Log: x.log, Traces: traces}) })
	if !x.config.external() {
		group.Go(func() { x.steward().Run(ctx) })
	}
	select {
	case err = <-serving:
	case <-ctx.Done():
	}
	cancel()
	l.hangUp()
	group.Wait()
	return err
}

// node returns the node's id.
func (x *controller) node() string { return x.wallet.Identity().Node.String() }

// hasMember reports whether this node may have a member of the embedded etcd.
func (x *controller) hasMember() bool {
	c := x.config
	return !c.external() && (!c.NoMember || member.Exists(c.etcdDir()))
}

func (x *controller) agent() *member.Agent {
	c := x.config
	return &member.Agent{Store: x.store, Others: c.endpoints, Log: x.log, Server: member.Options{
		Dir: c.etcdDir(), Name: x.node(), PeerURL: c.peerURL(), ClientURL: c.clientURL(),
		ListenPeer: member.URL(true, c.Listen, c.PeerPort), ListenClient: member.URL(true, c.Listen, c.EtcdPort),
		Wallet: x.wallet, Log: x.log}}
}

func (x *controller) steward() *member.Steward {
	every := min(x.config.ReplaceMemberAfter/10, 10*time.Second)
	return &member.Steward{Store: x.store, Node: x.node(), TLS: x.wallet.Client(), Every: every,
		ReplaceAfter: x.config.ReplaceMemberAfter, Log: x.log}
}

// present tells the cluster where this process is.
func (x *controller) present(ctx context.Context) {
	c := x.config
	p := &statepb.Presence{NodeId: x.node(), Name: c.Name, ApiAddress: c.at(c.APIPort), ClientUrl: c.clientURL(),
		Version: x.version}
	if x.hasMember() {
		p.PeerUrl = c.peerURL()
	}
	raw, err := proto.Marshal(p)
	if err != nil { // a name that is no text, say
		x.log.Error("this node can't say where it is", obs.Err(err))
		return
	}
	item := state.Item{Key: state.Presences.Key(x.node()), Value: raw}
	state.KeepThere(ctx, x.store, item, presenceTTL, func(err error) {
		if err != nil {
			x.log.Warn("the cluster's metadata can't be reached: attached volumes go on, nothing can be changed", obs.Err(err))
		}
	})
}

// expel keeps in the wallet, where all processes of the node look, which nodes were removed
// from the cluster.
func (x *controller) expel(ctx context.Context) {
	removed := state.NewMirror(ctx, x.store, state.Removed, nil)
	for {
		changed := removed.Changed()
		select {
		case <-removed.Ready():
			var ids []string
			for _, e := range removed.List() {
				ids = append(ids, e.ID)
			}
			if err := x.wallet.Expel(ids); err != nil {
				x.log.Error("which nodes were removed can't be written down", obs.Err(err))
			}
		default:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// listeners are where the API is served.
type listeners struct {
	tcp, unix net.Listener
	servers   []*http.Server
	wallet    *trust.Wallet
}

// listen takes the addresses of the API.
func (x *controller) listen() (*listeners, error) {
	const op = "daemon.Control"
	c := x.config
	l := &listeners{wallet: x.wallet}
	var err error
	if l.tcp, err = net.Listen("tcp", c.listenAt(c.APIPort)); err != nil {
		return nil, fault.WithCure(fault.Errorf(op, fault.KindOf(err), "the API's address: %w", err), "choose another with --api-port or --listen, or end what uses it")
	}
	if err := os.Remove(c.apiSocket()); err != nil && !errors.Is(err, os.ErrNotExist) { // of the process before
		l.close()
		return nil, fault.Wrap(op, err)
	}
	mask := unix.Umask(0o077) // root alone may connect
	l.unix, err = net.Listen("unix", c.apiSocket())
	unix.Umask(mask)
	if err != nil {
		l.close()
		return nil, fault.Wrap(op, err)
	}
	return l, nil
}

// serve serves the API; what it returns has a value when that fails. The socket of the
// machine works at once, other machines are let in by TLS.
func (l *listeners) serve(_ context.Context, api *server.Server) <-chan error {
	failed := make(chan error, 2)
	remote, local := server.HTTP(api), server.HTTP(api.Local())
	remote.TLSConfig = l.wallet.Server(true)
	l.servers = []*http.Server{remote, local}
	go func() { failed <- ended(remote.ServeTLS(l.tcp, "", "")) }()
	go func() { failed <- ended(local.Serve(l.unix)) }()
	return failed
}

func ended(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fault.Wrap("daemon.API", err)
}

// hangUp lets calls end for a moment, and ends those that don't.
func (l *listeners) hangUp() {
	ctx, cancel := context.WithTimeout(context.Background(), hangUpMax)
	defer cancel()
	var group sync.WaitGroup
	for _, s := range l.servers {
		group.Go(func() {
			if s.Shutdown(ctx) != nil {
				_ = s.Close() // who is cut off notices
			}
		})
	}
	group.Wait()
}

func (l *listeners) close() {
	for _, one := range []net.Listener{l.tcp, l.unix} {
		if one != nil {
			_ = one.Close() // it may be closed already
		}
	}
}
