package cli

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/holdfast-io/holdfast/api/client"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
)

// remote is the cluster that commands talk to, as flags and the environment name it.
type remote struct {
	out     *output
	options client.Options
}

// flags adds what names a cluster to all commands below cmd.
func (r *remote) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&r.options.Address, "address", "", "`where` the API is: host:port, or the path of a node's socket (also HOLDFAST_ADDRESS)")
	f.StringVar(&r.options.Token, "token", "", "API `token`, which a socket does not need (also HOLDFAST_TOKEN)")
	f.StringVar(&r.options.CAFile, "ca", "", "PEM `file` with the cluster's authority (also HOLDFAST_CA)")
}

// socket returns the path of a node's socket, if one is named.
func (r *remote) socket() string {
	if address := cmp.Or(r.options.Address, os.Getenv(client.EnvAddress)); strings.HasPrefix(address, "/") {
		return address
	}
	return ""
}

// do runs what talks to a cluster, and says of its errors what to do.
func (r *remote) do(cmd *cobra.Command, talk func(ctx context.Context, c *client.Client) error) error {
	c, err := client.Dial(r.options)
	if err != nil {
		return fault.WithCure(fault.E("cli", fault.Invalid, [16]byte{}, err), "see --address, --token and --ca in "+cmd.CommandPath()+" --help")
	}
	defer c.Close()
	return explained(talk(cmd.Context(), c), c.Address)
}

// explained makes a fault of what went wrong.
func explained(err error, address string) error {
	if err == nil {
		return nil
	}
	if already := new(fault.Error); errors.As(err, &already) && !errors.As(err, new(*connect.Error)) {
		return err
	}
	if errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled {
		return fault.WithCure(fault.Errorf("cli", fault.Canceled, "interrupted; what was asked for may go on"), "look how it is; asking again does no harm")
	}
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		cure := "see whether a node runs there, and name another with --address"
		if errors.Is(err, fs.ErrNotExist) {
			cure = "start a node on this machine: holdfast up; or name the cluster with --address"
		}
		if errors.Is(err, fs.ErrPermission) {
			cure = "run this as root; or use --address and --token"
		}
		return fault.WithCure(fault.Errorf("cli", fault.Unavailable, "the API at %s does not answer: %w", address, dial.Err), cure)
	}
	if stranger := new(tls.CertificateVerificationError); errors.As(err, &stranger) {
		return fault.WithCure(fault.Errorf("cli", fault.Denied, "who answers at %s is not believed: %w", address, stranger.Err),
			"name the cluster's authority with --ca: it is the file trust/ca.pem in the data directory of any node")
	}
	return rpc.Fault("cli", err)
}

// waiting is the flags of commands that can wait for what they ask for.
type waiting struct {
	off  bool
	most time.Duration
}

// flags adds them; what says what is waited for.
func (w *waiting) flags(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&w.off, "no-wait", false, "don't wait "+what)
	cmd.Flags().DurationVar(&w.most, "timeout", 2*time.Minute, "how long to wait "+what)
}

// proto returns what a request says of it.
func (w *waiting) proto() *durationpb.Duration {
	if w.off {
		return nil
	}
	return durationpb.New(w.most)
}
