// Package member is the cluster's own etcd: one server of it in this process ([Start]),
// and who the members are ([Plan]).
package member

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/trust"
)

// Options say what a server is.
type Options struct {
	Dir       string // its own; made when it is not there
	Name      string // of the member: the node's id
	PeerURL   string // how other members reach it
	ClientURL string // how clients reach it
	// ListenPeer and ListenClient are where it listens, if that is not where it is reached.
	ListenPeer, ListenClient string
	// Wallet proves who it is; with https URLs it is needed.
	Wallet *trust.Wallet
	// Cluster is Initial with the name and peer URL of every member, this one too, when the
	// server begins as a member that others have added; nil when it begins a cluster.
	Cluster map[string]string
	// Token tells clusters apart that have members at the same addresses.
	Token string
	// Volatile does without durability, for tests.
	Volatile bool
	Log      *slog.Logger
}

// Settings for small clusters: what they keep in etcd is some megabytes, changed a few
// times a second.
const (
	heartbeat       = 200 * time.Millisecond // each wakes all members up, for as long as they live
	election        = time.Second            // at least five heartbeats
	quotaBytes      = 8 << 30
	compactAfter    = "10m" // history for watches that were cut off
	snapshotCount   = 5000
	catchUpEntries  = 2000
	learnersMax     = 2
	progressEvery   = 5 * time.Minute
	startMax        = time.Minute
	requestBytesMax = 2 << 20
	txnOpsMax       = 1024
)

// Server is a running member.
type Server struct {
	etcd  *embed.Etcd
	quiet *atomic.Bool // it says nothing more
}

// Start starts a server, or one that was started in the same directory before. It returns
// when the server serves, or when ctx ends, or when it is clear that it can't.
func Start(ctx context.Context, o Options) (*Server, error) {
	const op = "member.Start"
	quiet := new(atomic.Bool)
	c, err := o.config(zapTo(o.Log, quiet))
	if err != nil {
		return nil, fault.E(op, fault.Invalid, block.VolumeID{}, err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fault.Wrap(op, err)
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return nil, fault.WithCure(fault.Errorf(op, fault.Unavailable, "this node's etcd does not start: %w", err),
			"see that its addresses are free and its directory is whole: "+o.Dir)
	}
	select {
	case <-e.Server.ReadyNotify():
		return &Server{etcd: e, quiet: quiet}, nil
	case <-e.Server.StopNotify():
		err = fault.Errorf(op, fault.Unavailable, "etcd stopped while it started")
	case err = <-e.Err():
		err = fault.E(op, fault.Unavailable, block.VolumeID{}, err)
	case <-ctx.Done():
		err = fault.E(op, fault.Canceled, block.VolumeID{}, context.Cause(ctx))
	}
	e.Close()
	return nil, err
}

// config returns the options as etcd wants them.
func (o Options) config(log *zap.Logger) (*embed.Config, error) {
	urls := make([]url.URL, 4)
	for i, text := range []string{o.PeerURL, o.ClientURL, cmp.Or(o.ListenPeer, o.PeerURL), cmp.Or(o.ListenClient, o.ClientURL)} {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		urls[i] = *u
	}
	c := embed.NewConfig()
	c.Name, c.Dir = o.Name, filepath.Join(o.Dir, dataDir)
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = urls[0:1], urls[1:2]
	c.ListenPeerUrls, c.ListenClientUrls = urls[2:3], urls[3:4]
	c.InitialClusterToken = o.Token
	c.InitialCluster = initial(map[string]string{o.Name: o.PeerURL})
	if o.Cluster != nil {
		c.InitialCluster, c.ClusterState = initial(o.Cluster), embed.ClusterStateFlagExisting
	}
	if o.Wallet != nil {
		c.ClientTLSInfo, c.PeerTLSInfo = tlsInfo(o.Wallet), tlsInfo(o.Wallet)
		c.GRPCAdditionalServerOptions = doorkeeper{o.Wallet}.options()
	}
	c.TickMs, c.ElectionMs = uint(heartbeat/time.Millisecond), uint(election/time.Millisecond)
	c.QuotaBackendBytes = quotaBytes
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, compactAfter
	c.SnapshotCount, c.SnapshotCatchUpEntries = snapshotCount, catchUpEntries
	c.MaxLearners = learnersMax
	// Its check adds no learner while a voter is down, which is when one is needed. Plan
	// keeps the majority.
	c.StrictReconfigCheck = false
	c.WatchProgressNotifyInterval = progressEvery
	c.MaxRequestBytes, c.MaxTxnOps = requestBytesMax, txnOpsMax
	c.EnableGRPCGateway, c.UnsafeNoFsync = false, o.Volatile
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = time.Second, 2*time.Second
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return c, nil
}

func tlsInfo(w *trust.Wallet) transport.TLSInfo {
	return transport.TLSInfo{
		CertFile:            w.NodeFile(), // read again at each handshake
		KeyFile:             w.NodeFile(),
		TrustedCAFile:       w.AuthoritiesFile(),
		ClientCertAuth:      true,
		ServerName:          trust.ServerName,
		SkipClientSANVerify: true, // addresses may be translated: the certificate is what counts
	}
}

// initial writes members as etcd wants them.
func initial(members map[string]string) (s string) {
	for name, url := range members {
		if s != "" {
			s += ","
		}
		s += fmt.Sprintf("%s=%s", name, url)
	}
	return s
}

// ID returns the member's id, which its cluster gave it.
func (s *Server) ID() uint64 { return uint64(s.etcd.Server.MemberID()) }

// Stopped is closed when the server has stopped, by Close, by being removed from the
// cluster, or because it can't go on.
func (s *Server) Stopped() <-chan struct{} { return s.etcd.Server.StopNotify() }

// HasLeader reports whether the member knows a leader.
func (s *Server) HasLeader() bool { return s.etcd.Server.Leader() != 0 }

// Close stops the server; a leader hands over first, if others are there.
func (s *Server) Close() {
	s.quiet.Store(true)
	s.etcd.Close()
}

// URL returns the URL of a port of an address.
func URL(secure bool, address string, port int) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(address, fmt.Sprint(port))
}
