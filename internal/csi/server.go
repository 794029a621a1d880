package csi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/csi/claim"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// DriverName is what StorageClasses call the driver.
const DriverName = "csi.holdfast.io"

// Keys of topology. None is below k8s.io: a kubelet may not set those.
const (
	TopologyNode   = "topology.holdfast.io/node"
	TopologyZone   = "topology.holdfast.io/zone"
	TopologyRegion = "topology.holdfast.io/region"
)

// VolumesPerNodeMax is how many volumes a node shows at most, unless Options say
// otherwise. On older kernels a device takes 8 MiB for its requests, used or not.
const VolumesPerNodeMax = 100

// API is what the driver calls.
type API struct {
	Volumes     holdfastv1connect.VolumeServiceClient
	Attachments holdfastv1connect.AttachmentServiceClient
	Snapshots   holdfastv1connect.SnapshotServiceClient
	Nodes       holdfastv1connect.NodeServiceClient
	Pools       holdfastv1connect.PoolServiceClient
}

// NewAPI returns the API at a base URL.
func NewAPI(client *http.Client, url string) API {
	return API{
		Volumes:     holdfastv1connect.NewVolumeServiceClient(client, url),
		Attachments: holdfastv1connect.NewAttachmentServiceClient(client, url),
		Snapshots:   holdfastv1connect.NewSnapshotServiceClient(client, url),
		Nodes:       holdfastv1connect.NewNodeServiceClient(client, url),
		Pools:       holdfastv1connect.NewPoolServiceClient(client, url),
	}
}

func (api API) claim() claim.API { return claim.API{Attachments: api.Attachments, Nodes: api.Nodes} }

// Options say what a driver serves.
type Options struct {
	API     API
	Version string // of the program
	// Node is the name or id of the node that this process is on; empty for a process that
	// only has the controller's services.
	Node string
	// Dir is where the node's services remember which paths they published, for volumes
	// that may have one writer only. Needed with Node.
	Dir string
	// Controller serves Controller, GroupController and SnapshotMetadata too.
	Controller bool
	// VolumesPerNodeMax is how many volumes a node shows at most; 0 is the default.
	VolumesPerNodeMax int64

	Log *slog.Logger // nil: none
}

// Driver answers the calls.
type Driver struct {
	o     Options
	log   *slog.Logger
	locks locks
}

// New makes a driver.
func New(o Options) (*Driver, error) {
	if o.Node == "" && !o.Controller {
		return nil, fault.Errorf("csi.New", fault.Invalid, "neither a node's services nor the controller's are asked for")
	}
	if o.VolumesPerNodeMax == 0 {
		o.VolumesPerNodeMax = VolumesPerNodeMax
	}
	d := &Driver{o: o, log: o.Log, locks: locks{held: map[string]chan struct{}{}}}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if o.Node != "" {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fault.Wrap("csi.New", err)
		}
	}
	return d, nil
}

// Register gives the driver's services to a gRPC server.
func (d *Driver) Register(g grpc.ServiceRegistrar) {
	csi.RegisterIdentityServer(g, &identity{d: d})
	if d.o.Controller {
		c := &controller{d: d, api: d.o.API}
		csi.RegisterControllerServer(g, c)
		csi.RegisterGroupControllerServer(g, &groups{c: c})
		csi.RegisterSnapshotMetadataServer(g, &metadata{api: d.o.API})
	}
	if d.o.Node != "" {
		csi.RegisterNodeServer(g, &node{d: d, api: d.o.API})
	}
}

// Serve answers whom listener (of [Listen]) hears until ctx ends, and then lets calls that
// have begun come to their end, for as long as grace.
func (d *Driver) Serve(ctx context.Context, listener net.Listener, grace time.Duration) error {
	g := grpc.NewServer(grpc.UnaryInterceptor(d.unary), grpc.StreamInterceptor(d.stream))
	d.Register(g)
	return Run(ctx, g, listener, grace)
}

// Run serves until ctx ends, and then lets calls come to their end for as long as grace.
func Run(ctx context.Context, g *grpc.Server, listener net.Listener, grace time.Duration) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		cut := time.AfterFunc(grace, g.Stop)
		defer cut.Stop()
		g.GracefulStop()
	}()
	if err := g.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // ctx may have ended before
		return fault.Wrap("csi.Serve", err)
	}
	<-stopped
	return nil
}

// Listen makes a unix socket that only root can connect to. A socket that a predecessor
// left is replaced.
func Listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, fault.Wrap("csi.Listen", err)
	}
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, fault.Wrap("csi.Listen", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fault.Wrap("csi.Listen", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		_ = listener.Close()
		return nil, fault.Wrap("csi.Listen", err)
	}
	return listener, nil
}
