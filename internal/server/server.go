// Package server is the API, once: it authenticates who asks, validates what is asked,
// writes it as specs into the state, and shows statuses that it puts together from what
// nodes, heads and control say. It answers gRPC, gRPC-Web, and Connect's HTTP with JSON on
// one port, with reflection, an OpenAPI document, metrics and health.
//
// Names and specs are written in one commit, so a create can be repeated: the same name
// with the same spec gives the same answer. Nothing that is shown as healthy may be
// otherwise: what isn't known doesn't count, see health.go.
package server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// Options say what a server serves, and to whom.
type Options struct {
	Store   state.Store
	NodeID  string // of the node that it runs on; empty for none
	Version string // of the program

	Trust    Trust         // who is let in over TCP; nil: nobody
	Blocks   ChangedBlocks // nil: there are no replicas on this node
	Others   Others        // nil: other nodes are not asked
	Leases   Leases        // nil: nothing is known of leases
	Devices  Devices       // nil: nothing is attached to this node
	Metadata Metadata      // how the store does; nil: nothing is known but whether it answers

	// Data is the socket of the data process of this server's node. Its metrics are shown
	// with the server's, and its debug pages to administrators. Empty: there is none.
	Data string

	Traces trace.TracerProvider // nil: none
	Log    *slog.Logger         // nil: none
	Now    func() time.Time
	Random io.Reader
}

// Trust verifies who somebody is, and certifies nodes.
type Trust interface {
	// Bearer returns who holds a token of the API; fault.Denied when it is none, has ended
	// or was revoked.
	Bearer(ctx context.Context, token string) (Identity, error)
	// Node returns the id of the node that is at the other end of a connection; fault.Denied
	// when it is none.
	Node(c tls.ConnectionState) (string, error)
	// Spend accepts a join token, or returns fault.Denied. The op counts its use, in the
	// commit that lets the machine in; when that is busy, ask again.
	Spend(ctx context.Context, token string) (state.Op, error)
	// Certify makes a node's certificate (DER) for the public key of a request, and returns
	// whom to trust.
	Certify(ctx context.Context, csr []byte, node string, addresses []string) (certificate []byte, authorities [][]byte, err error)
	// CreateToken makes a token; the secret is the whole of it.
	CreateToken(ctx context.Context, t *v1.Token) (secret string, err error)
	// ListTokens lists tokens in the order of their ids.
	ListTokens(ctx context.Context) ([]*v1.Token, error)
	// RevokeToken makes a token worthless; fault.NotFound when there is none.
	RevokeToken(ctx context.Context, id string) (*v1.Token, error)
}

// ChangedBlocks knows what differs between generations of a volume.
type ChangedBlocks interface {
	// Changed lists what differs between two snapshots of a volume from an offset on, or,
	// with an empty base, what the snapshot has at all. fault.NotFound: the node has no
	// replica that could tell.
	Changed(ctx context.Context, q ChangedQuery) (*v1.ListChangedBlocksResponse, error)
}

// Others reaches the API of other nodes, as this node.
type Others interface {
	Snapshots(address string) (holdfastv1connect.SnapshotServiceClient, error)
	Volumes(address string) (holdfastv1connect.VolumeServiceClient, error)
}

// Devices knows of what is attached to this server's node.
type Devices interface {
	// Stats says what I/O a volume has from now on for so long, or, for 0, has had. fault.NotFound:
	// it is not attached to this node.
	Stats(ctx context.Context, volume string, over time.Duration) (*v1.VolumeStats, error)
}

// Leases knows of the leases that replicas on this server's node have granted.
type Leases interface {
	// Vacant reports whether nobody has a lease of a volume's replica here; fault.NotFound
	// when there is no replica.
	Vacant(ctx context.Context, volume string) (bool, error)
	// Answers reports whether a node's data process answers at the address.
	Answers(ctx context.Context, node, address string) bool
}

// ChangedQuery is a question for ChangedBlocks.
type ChangedQuery struct {
	Volume         string // id
	Base, Snapshot string // ids; without Base, all that there is; without Snapshot, the volume as it is now
	Offset         int64
	RangesMax      int
}

// Metadata knows how the store of the state does.
type Metadata interface {
	// Status returns its members, and the URLs that new nodes are to use.
	Status(ctx context.Context) (status *v1.Metadata, endpoints []string)
}

// Server answers the API over TCP: callers prove who they are. Local answers where who
// can connect is an administrator.
type Server struct {
	options Options
	store   state.Store
	view    *view
	log     *slog.Logger
	now     func() time.Time
	random  io.Reader
	tracer  trace.Tracer
	metrics *metrics
	named   atomic.Pointer[v1.Cluster] // as it was read last
	mux     *http.ServeMux
}

// New makes a server that works until ctx ends.
func New(ctx context.Context, o Options) *Server {
	s := &Server{options: o, store: bounded{o.Store, storeMax}, log: o.Log, now: o.Now, random: o.Random, view: newView(ctx, o.Store)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	if o.Traces == nil {
		o.Traces = noop.NewTracerProvider()
	}
	s.tracer = o.Traces.Tracer("holdfast/server")
	s.metrics = newMetrics(s)
	s.mux = http.NewServeMux()
	s.mount()
	return s
}

// mount gives every service, page and probe its place.
func (s *Server) mount() {
	options := connect.WithHandlerOptions(
		connect.WithInterceptors(&interceptor{s}),
		connect.WithRecover(s.recovered),
		connect.WithReadMaxBytes(requestBytesMax),
	)
	s.mux.Handle(holdfastv1connect.NewClusterServiceHandler(&clusters{s}, options))
	s.mux.Handle(holdfastv1connect.NewNodeServiceHandler(&nodes{s}, options))
	s.mux.Handle(holdfastv1connect.NewPoolServiceHandler(&pools{s}, options))
	s.mux.Handle(holdfastv1connect.NewVolumeServiceHandler(&volumes{s}, options))
	s.mux.Handle(holdfastv1connect.NewAttachmentServiceHandler(&attachments{s}, options))
	s.mux.Handle(holdfastv1connect.NewSnapshotServiceHandler(&snapshots{s}, options))
	s.mux.Handle(holdfastv1connect.NewOperationServiceHandler(&operations{s}, options))
	s.mux.Handle(holdfastv1connect.NewEventServiceHandler(&events{s}, options))
	s.mountPages()
}

// requestBytesMax bounds a request; the largest are specs with lists and labels.
const requestBytesMax = 1 << 20

// ServeHTTP answers callers that prove who they are.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && s.options.Trust != nil {
		if node, err := s.options.Trust.Node(*r.TLS); err == nil {
			r = r.WithContext(context.WithValue(r.Context(), nodeKey{}, node))
		}
	}
	s.mux.ServeHTTP(w, r)
}

// Local returns the handler for a socket that only an administrator can connect to.
func (s *Server) Local() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := Identity{Role: v1.Role_ROLE_ADMIN, Subject: "root", Method: "socket"}
		s.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), localKey{}, who)))
	})
}

// Ready waits until the server knows the state.
func (s *Server) Ready(ctx context.Context) error { return s.view.ready(ctx) }

// HTTP returns an HTTP server for handler, ready for all protocols with and without TLS.
func HTTP(handler http.Handler) *http.Server {
	h := &http.Server{Handler: handler, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, Protocols: new(http.Protocols)}
	h.Protocols.SetHTTP1(true)
	h.Protocols.SetHTTP2(true)
	h.Protocols.SetUnencryptedHTTP2(true)
	return h
}

// recovered answers for a bug of ours.
func (s *Server) recovered(_ context.Context, spec connect.Spec, _ http.Header, what any) error {
	s.log.Error("a bug: a call panicked", "call", spec.Procedure, "panic", what, "stack", stack())
	return connect.NewError(connect.CodeInternal, fault.Errorf("server", fault.Internal, "a bug: the server's log says more"))
}
