// Package client connects to Holdfast's API: over the root-only unix socket of a node, or
// over TCP with a bearer token or a node's certificate.
//
//	c, err := client.Dial(client.Options{}) // the node's own socket, or what the environment names
//	v, err := c.Volumes.GetVolume(ctx, &holdfastv1.GetVolumeRequest{Volume: "db"})
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
)

// The environment variables that Dial reads for what its options leave open.
const (
	EnvAddress = "HOLDFAST_ADDRESS"
	EnvToken   = "HOLDFAST_TOKEN"
	EnvCA      = "HOLDFAST_CA" // a file of certificates, PEM
)

// Port is where the API is when an address has none.
const Port = "7400"

// Sockets are where a node's socket is looked for when nobody names an address.
var Sockets = []string{"/run/holdfast/api.sock", "/var/run/holdfast/api.sock"}

// Options say whom to connect to, and as whom.
type Options struct {
	// Address is unix:///path or a path of a socket, https://host:port, http://host:port
	// (without TLS), or host:port, which means https; without a port it is 7400. Empty: HOLDFAST_ADDRESS, else the
	// first of Sockets that exists.
	Address string
	Token   string      // a bearer token; empty: HOLDFAST_TOKEN
	CAFile  string      // whom to trust, PEM; empty: HOLDFAST_CA, else the system's authorities
	TLS     *tls.Config // instead of CAFile, such as with a node's certificate
	// GRPC speaks gRPC instead of the Connect protocol, which is as good, and readable.
	GRPC bool
}

// Client has the services. It may be used from any goroutine.
type Client struct {
	Address string // what it connects to

	Cluster     holdfastv1connect.ClusterServiceClient
	Nodes       holdfastv1connect.NodeServiceClient
	Pools       holdfastv1connect.PoolServiceClient
	Volumes     holdfastv1connect.VolumeServiceClient
	Attachments holdfastv1connect.AttachmentServiceClient
	Snapshots   holdfastv1connect.SnapshotServiceClient
	Operations  holdfastv1connect.OperationServiceClient
	Events      holdfastv1connect.EventServiceClient

	transport *http.Transport
}

// Dial makes a client. It connects when something is called, so it fails only for options
// that make no sense.
func Dial(o Options) (*Client, error) {
	o = o.complete()
	transport := &http.Transport{
		Protocols:           new(http.Protocols),
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     90 * time.Second,
	}
	transport.Protocols.SetHTTP1(true)
	base, err := o.prepare(transport)
	if err != nil {
		return nil, err
	}
	c := o.services(&http.Client{Transport: transport}, base)
	c.transport = transport
	return c, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

func (o Options) complete() Options {
	if o.Address == "" {
		o.Address = os.Getenv(EnvAddress)
	}
	if o.Address == "" {
		o.Address = Sockets[0]
		for _, path := range Sockets {
			if _, err := os.Stat(path); err == nil {
				o.Address = path
				break
			}
		}
	}
	if o.Token == "" {
		o.Token = os.Getenv(EnvToken)
	}
	if o.CAFile == "" {
		o.CAFile = os.Getenv(EnvCA)
	}
	return o
}

// prepare makes the transport ready for the address, and returns the base URL.
func (o Options) prepare(t *http.Transport) (string, error) {
	if path, ok := strings.CutPrefix(o.Address, "unix://"); ok || strings.HasPrefix(o.Address, "/") {
		if !ok {
			path = o.Address
		}
		t.Protocols.SetUnencryptedHTTP2(true)
		t.Protocols.SetHTTP1(false)
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return "http://holdfast", nil
	}
	address := o.Address
	if !strings.Contains(address, "://") {
		if _, _, err := net.SplitHostPort(address); err != nil {
			address = net.JoinHostPort(strings.Trim(address, "[]"), Port)
		}
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", fmt.Errorf("the address %q is none: write host:port, https://host:port or unix:///path", o.Address)
	}
	if u.Scheme == "http" {
		t.Protocols.SetUnencryptedHTTP2(true)
		t.Protocols.SetHTTP1(false)
		return strings.TrimSuffix(address, "/"), nil
	}
	t.Protocols.SetHTTP2(true)
	t.TLSClientConfig = o.TLS
	if o.TLS == nil && o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return "", fmt.Errorf("read the authorities to trust: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return "", fmt.Errorf("%s has no certificate in PEM", o.CAFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}
	}
	return strings.TrimSuffix(address, "/"), nil
}

func (o Options) services(h *http.Client, base string) *Client {
	var options []connect.ClientOption
	if o.Token != "" {
		options = append(options, connect.WithInterceptors(bearer(o.Token)))
	}
	if o.GRPC {
		options = append(options, connect.WithGRPC())
	}
	return &Client{
		Address:     o.Address,
		Cluster:     holdfastv1connect.NewClusterServiceClient(h, base, options...),
		Nodes:       holdfastv1connect.NewNodeServiceClient(h, base, options...),
		Pools:       holdfastv1connect.NewPoolServiceClient(h, base, options...),
		Volumes:     holdfastv1connect.NewVolumeServiceClient(h, base, options...),
		Attachments: holdfastv1connect.NewAttachmentServiceClient(h, base, options...),
		Snapshots:   holdfastv1connect.NewSnapshotServiceClient(h, base, options...),
		Operations:  holdfastv1connect.NewOperationServiceClient(h, base, options...),
		Events:      holdfastv1connect.NewEventServiceClient(h, base, options...),
	}
}

// bearer adds a token to every call.
type bearer string

// WrapUnary adds the token to a call.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
		r.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, r)
	}
}

// WrapStreamingClient adds the token to a stream.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, s connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, s)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

// WrapStreamingHandler is not for clients.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}
