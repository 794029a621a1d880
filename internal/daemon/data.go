package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/node"
	"github.com/holdfast-io/holdfast/internal/obs"
	"github.com/holdfast-io/holdfast/internal/state/etcd"
	"github.com/holdfast-io/holdfast/internal/state/etcd/member"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// ChildOptions are those of the processes that Node starts.
type ChildOptions struct {
	File    string // the config that Node has written
	Program string // this program
	Version string
	Log     *slog.Logger
}

// load reads the config that Node has written.
func (o *ChildOptions) load() (*Config, *trust.Wallet, error) {
	c := &Config{}
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.Flags(f)
	if err := Load(f, func(string) string { return "" }, o.File); err != nil {
		return nil, nil, err
	}
	w, err := trust.OpenWallet(c.trustDir())
	if err != nil {
		return nil, nil, fault.WithCure(err, "this process is started by holdfast node")
	}
	return c, w, nil
}

// openStore opens the cluster's metadata, which may be away.
func (c *Config) openStore(w *trust.Wallet) (*etcd.Store, error) {
	if c.external() {
		return c.openExternal()
	}
	return etcd.Open(etcd.Options{Endpoints: c.endpoints(), Prefer: c.clientURL(), TLS: w.Client(), Follow: true,
		Remember: func(urls []string) {
			_ = replace(c.endpointsFile(), []byte(strings.Join(urls, "\n")+"\n")) // those of before may do
		}})
}

// endpoints returns the members of the embedded etcd as they were known last, this node's
// own first.
func (c *Config) endpoints() []string {
	raw, _ := os.ReadFile(c.endpointsFile()) // none: its own may be there
	urls := strings.Fields(string(raw))
	if own := c.clientURL(); len(urls) == 0 || slices.Contains(urls, own) || member.Exists(c.etcdDir()) {
		urls = slices.DeleteFunc(urls, func(u string) bool { return u == own })
		urls = append([]string{own}, urls...)
	}
	return urls
}

// openExternal opens somebody else's etcd.
func (c *Config) openExternal() (*etcd.Store, error) {
	const op = "daemon.etcd"
	o := etcd.Options{Endpoints: c.EtcdEndpoints, Prefix: c.EtcdPrefix, Username: c.EtcdUser,
		TLS: &tls.Config{MinVersion: tls.VersionTLS12}}
	if c.EtcdCA != "" {
		raw, err := os.ReadFile(c.EtcdCA)
		if err != nil {
			return nil, fault.Wrap(op, err)
		}
		o.TLS.RootCAs = x509.NewCertPool()
		if !o.TLS.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fault.Errorf(op, fault.Invalid, "%s holds no certificate", c.EtcdCA)
		}
	}
	if c.EtcdCert != "" {
		o.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.EtcdCert, c.EtcdKey) // each time: they are renewed
			return &pair, err
		}
	}
	if c.EtcdPasswordFile != "" {
		raw, err := os.ReadFile(c.EtcdPasswordFile)
		if err != nil {
			return nil, fault.Wrap(op, err)
		}
		o.Password = strings.TrimSpace(string(raw))
	}
	return etcd.Open(o)
}

// Data is the data process of a node. It returns when ctx ends, when it can't begin, or when
// it is to be started again with a new certificate.
func Data(ctx context.Context, o ChildOptions) error {
	c, w, err := o.load()
	if err != nil {
		return err
	}
	store, err := c.openStore(w)
	if err != nil {
		return err
	}
	defer store.Close()
	export, err := c.exportTLS(w)
	if err != nil { // devices are served nevertheless
		o.Log.Error("clients can't connect to exports over TCP", obs.Err(err))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		awaitRenewal(ctx, w)
		cancel()
	}()
	go settle(ctx, o.Log)
	id := w.Identity()
	credentials := id.Credentials()
	credentials.Removed = w.Removed
	return node.Run(ctx, node.Options{
		Node: id.Node, Cluster: id.Cluster, Name: c.Name, Version: o.Version,
		Store: store, Pools: c.Pools,
		Listen: c.listenAt(c.DataPort), Advertise: c.at(c.DataPort), API: c.at(c.APIPort),
		Credentials: credentials,
		Debug:       c.debugSocket(),
		Keeper:      c.keeperSocket(), Errand: errand.Command{o.Program, "errand"}, LinkDir: c.LinkDir,
		ExportDir: c.exportDir(), ExportTLS: export, Wait: c.IOWait,
		Log: o.Log.With("process", "data"),
	})
}

// renewalEvery is how often certificates are looked at.
const renewalEvery = time.Hour

// awaitRenewal returns when the wallet has another certificate than now, or ctx ends. The
// data process then makes room for one that uses it: devices do not notice.
func awaitRenewal(ctx context.Context, w *trust.Wallet) {
	now := w.Identity()
	for ctx.Err() == nil && w.Identity() == now {
		pause(ctx, renewalEvery)
	}
}
