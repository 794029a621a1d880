package cli

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/csi"
	"github.com/holdfast-io/holdfast/internal/docker"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/kube"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// Where a node's daemon serves the API to this machine, and where doors keep what they
// remember.
const (
	localAPI = "unix:///run/holdfast/api.sock"
	doorsDir = "/var/lib/holdfast"
)

// door is what the commands have in common that serve something in front of the API.
type door struct {
	api  string
	node string
	log  *slog.Logger
}

func (d *door) flags(cmd *cobra.Command, onNode bool) {
	cmd.Flags().StringVar(&d.api, "api", localAPI, "where the API is: unix:///path of the daemon's socket, or http://host:port")
	if onNode {
		name, _ := os.Hostname() // without one, the flag has to be given
		cmd.Flags().StringVar(&d.node, "node", strings.ToLower(name), "`name` or id of the node that this runs on")
	}
}

// dial returns a client and the URL to use with it.
func (d *door) dial(cmd *cobra.Command) (*http.Client, string, error) {
	o, err := obs.OptionsFromEnv(os.Getenv)
	if err != nil {
		return nil, "", err
	}
	d.log = o.Logger(cmd.ErrOrStderr())
	socket, local := strings.CutPrefix(d.api, "unix://")
	if !local {
		if u, err := url.Parse(d.api); err != nil || u.Host == "" {
			return nil, "", fault.WithCure(fault.Errorf("dial", fault.Invalid, "%q is no address of an API", d.api), "use "+localAPI+", or http://host:port")
		}
		return &http.Client{}, strings.TrimSuffix(d.api, "/"), nil
	}
	dialer := &net.Dialer{}
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}}}, "http://holdfast", nil
}

// drainMax is how long calls may go on when a door closes.
const drainMax = 10 * time.Second

func newCSICommand() *cobra.Command {
	var d door
	var socket, kubelet, dir string
	var controller, noNode, noRegistration bool
	var most int64
	cmd := &cobra.Command{
		Use:   "csi",
		Short: "Serve the Container Storage Interface to Kubernetes or Nomad",
		Long: `Serve the Container Storage Interface on a unix socket, as a thin layer over
the API: the node's services, and with --controller also the controller's, those
for groups, and those for changed blocks. The driver is called csi.holdfast.io.

With the node's services it registers itself with the kubelet, so no sidecar is
needed for that.`,
		Example: `  holdfast csi
  holdfast csi --controller --no-node --socket /csi/csi.sock`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, url, err := d.dial(cmd)
			if err != nil {
				return err
			}
			o := csi.Options{API: csi.NewAPI(client, url), Version: thisVersion().Version, Node: d.node, Dir: dir, Controller: controller, VolumesPerNodeMax: most, Log: d.log}
			if noNode {
				o.Node = ""
			}
			if socket == "" {
				socket = kube.Socket(kubelet)
			}
			driver, err := csi.New(o)
			if err != nil {
				return err
			}
			listener, err := csi.Listen(socket) // before the kubelet is told of it
			if err != nil {
				return err
			}
			serve := []func(context.Context) error{func(ctx context.Context) error { return driver.Serve(ctx, listener, drainMax) }}
			if !noNode && !noRegistration {
				r := &kube.Registrar{Kubelet: kubelet, Socket: socket, Log: d.log}
				serve = append(serve, r.Serve)
			}
			return together(cmd.Context(), serve...)
		},
	}
	d.flags(cmd, true)
	f := cmd.Flags()
	f.StringVar(&socket, "socket", "", "`path` of the driver's socket (default: plugins/csi.holdfast.io/csi.sock in the kubelet's directory)")
	f.StringVar(&kubelet, "kubelet", kube.DefaultKubelet, "the kubelet's `directory`")
	f.StringVar(&dir, "dir", filepath.Join(doorsDir, "csi"), "`directory` for what the node's services remember")
	f.BoolVar(&controller, "controller", false, "serve the controller's services too")
	f.BoolVar(&noNode, "no-node", false, "leave out the node's services")
	f.BoolVar(&noRegistration, "no-registration", false, "do not register with a kubelet")
	f.Int64Var(&most, "volumes-max", csi.VolumesPerNodeMax, "volumes that a node shows at most")
	return cmd
}

// together runs all until ctx ends or one fails, and then ends the others.
func together(ctx context.Context, all ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	for _, one := range all {
		group.Go(func() {
			if err := one(ctx); err != nil {
				cancel(err)
			}
		})
	}
	group.Wait()
	if err := context.Cause(ctx); err != nil && err != ctx.Err() {
		return err
	}
	return nil
}

func newDockerCommand() *cobra.Command {
	var d door
	var socket, root, dir string
	cmd := &cobra.Command{
		Use:   "docker",
		Short: "Serve Docker's volume plugin on this node",
		Long: `Serve Docker's volume plugin on a unix socket. The engine finds it there under
the socket's name, by itself.`,
		Example: `  holdfast docker
  docker volume create -d holdfast --opt size=10G --opt repl=3 db
  docker run --volume-driver holdfast -v name=web,size=5G,repl=2:/data alpine`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, url, err := d.dial(cmd)
			if err != nil {
				return err
			}
			p, err := docker.New(docker.Options{Node: d.node, Root: root, Dir: dir, Log: d.log, API: docker.API{
				Volumes:     holdfastv1connect.NewVolumeServiceClient(client, url),
				Attachments: holdfastv1connect.NewAttachmentServiceClient(client, url),
				Nodes:       holdfastv1connect.NewNodeServiceClient(client, url),
			}})
			if err != nil {
				return err
			}
			return p.Serve(cmd.Context(), socket)
		},
	}
	d.flags(cmd, true)
	f := cmd.Flags()
	f.StringVar(&socket, "socket", docker.DefaultSocket, "`path` of the plugin's socket; its name is the driver's")
	f.StringVar(&root, "root", filepath.Join(doorsDir, "docker", "volumes"), "`directory` below which volumes are mounted")
	f.StringVar(&dir, "dir", filepath.Join(doorsDir, "docker"), "`directory` for which containers use what")
	return cmd
}

func newKubeCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "kube",
		Short: "What Kubernetes needs besides the Container Storage Interface",
		Long: `Parts of the deployment in Kubernetes, and a way to reach it from outside:
linked as kubectl-holdfast, this program is kubectl's plugin.`,
	})
	cmd.AddCommand(newKubeMonitor(), newKubeExtender(), newKubeJoin(), newKubeInvite(), newKubeExec())
	return cmd
}

// kubeFlags are how an API server is reached.
type kubeFlags struct{ url string }

func (k *kubeFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.url, "kube-url", "", "Kubernetes' API server, such as a kubectl proxy (default: the one of the cluster that this is a pod of)")
}

func (k *kubeFlags) client() (*kube.Client, error) {
	if k.url != "" {
		return &kube.Client{URL: strings.TrimSuffix(k.url, "/"), HTTP: &http.Client{Timeout: 15 * time.Second}}, nil
	}
	return kube.InCluster(os.Getenv)
}

func newKubeMonitor() *cobra.Command {
	var d door
	var k kubeFlags
	patience := kube.DefaultPatience
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Release what a dead node holds, so that pods start elsewhere with their data",
		Long: `Watch for nodes that are gone: whose lease in Holdfast has ended and whose
kubelet is silent too. Their pods that use Holdfast volumes are deleted without
waiting for the kubelet, and their volumes are detached, each with an Event that
says why. Nothing is done while half of the nodes or more seem to be gone, and
nothing about nodes in maintenance.

What is wrong with a volume is said in Events at its claim.`,
		Example: `  holdfast kube monitor
  holdfast kube monitor --kubelet-patience 1m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, url, err := d.dial(cmd)
			if err != nil {
				return err
			}
			c, err := k.client()
			if err != nil {
				return err
			}
			m := &kube.Monitor{Kube: c, Nodes: holdfastv1connect.NewNodeServiceClient(client, url), Volumes: holdfastv1connect.NewVolumeServiceClient(client, url),
				Clock: host.RealClock{}, Patience: patience, Log: d.log}
			m.Run(cmd.Context())
			return nil
		},
	}
	d.flags(cmd, false)
	k.flags(cmd)
	cmd.Flags().DurationVar(&patience.Holdfast, "lease-patience", patience.Holdfast, "since a node's lease in Holdfast has ended")
	cmd.Flags().DurationVar(&patience.Kubelet, "kubelet-patience", patience.Kubelet, "since its kubelet said something")
	return cmd
}

func newKubeExtender() *cobra.Command {
	var d door
	var k kubeFlags
	var listen string
	cmd := &cobra.Command{
		Use:   "extender",
		Short: "Serve a scheduler extender: pods prefer nodes that hold their data",
		Long: `Serve a scheduler extender at /prioritize: a node scores by how many of a pod's
volumes have an in-sync copy there. It only prefers; no pod is kept from being
scheduled, whatever happens to it.`,
		Example: `  holdfast kube extender --listen :7410`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, url, err := d.dial(cmd)
			if err != nil {
				return err
			}
			c, err := k.client()
			if err != nil {
				return err
			}
			h := &http.Server{Addr: listen, ReadHeaderTimeout: drainMax,
				Handler: &kube.Extender{Kube: c, Volumes: holdfastv1connect.NewVolumeServiceClient(client, url), Log: d.log}}
			context.AfterFunc(cmd.Context(), func() { _ = h.Close() })
			if err := h.ListenAndServe(); err != http.ErrServerClosed {
				return fault.Wrap("kube extender", err)
			}
			return nil
		},
	}
	d.flags(cmd, false)
	k.flags(cmd)
	cmd.Flags().StringVar(&listen, "listen", ":7410", "`address` to serve at")
	return cmd
}

// gathering is how pods find each other.
type gathering struct {
	kubeFlags
	namespace string
}

func (g *gathering) flags(cmd *cobra.Command) {
	g.kubeFlags.flags(cmd)
	cmd.Flags().StringVarP(&g.namespace, "namespace", "n", "holdfast", "where Holdfast runs")
}

func (g *gathering) open(cmd *cobra.Command) (*kube.Gathering, error) {
	o, err := obs.OptionsFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	c, err := g.client()
	return &kube.Gathering{Kube: c, Namespace: g.namespace, Log: o.Logger(cmd.ErrOrStderr())}, err
}

func newKubeJoin() *cobra.Command {
	var g gathering
	var m kube.Member
	cmd := &cobra.Command{
		Use:   "join",
		Short: "Write the config with which a pod's node founds the cluster, or joins it",
		Long: `Agree with the other pods on who founds the cluster, and write the config file
for holdfast node: the founder's, or, once there is a token, that of a node that
joins. It is the first container of the DaemonSet's pods.`,
		Example: `  holdfast kube join --node n1 --address 10.0.0.1:7400 --config /run/holdfast/kube.yaml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := g.open(cmd)
			if err != nil {
				return err
			}
			return at.Prepare(cmd.Context(), m)
		},
	}
	g.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&m.Node, "node", "", "`name` of the node")
	f.StringVar(&m.Address, "address", "", "`host:port` of the node's API, for those who join it")
	f.StringVar(&m.Config, "config", "", "`file` to write")
	return cmd
}

func newKubeInvite() *cobra.Command {
	var d door
	var g gathering
	cmd := &cobra.Command{
		Use:   "invite",
		Short: "Keep a fresh token for nodes that join, in a Secret",
		Long: `Keep a token with which new nodes join in the Secret holdfast-join, and replace
it each day. It runs beside each node of the DaemonSet.`,
		Example: `  holdfast kube invite -n holdfast`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, url, err := d.dial(cmd)
			if err != nil {
				return err
			}
			at, err := g.open(cmd)
			if err != nil {
				return err
			}
			at.Invite(cmd.Context(), holdfastv1connect.NewClusterServiceClient(client, url))
			return nil
		},
	}
	d.flags(cmd, false)
	g.flags(cmd)
	return cmd
}

// PluginName is how kubectl finds this program as its plugin.
const PluginName = "kubectl-holdfast"

// PluginArgs are the arguments that mean, for the program called as kubectl's plugin, what
// args mean on a node.
func PluginArgs(args []string) []string { return append([]string{"kube", "exec", "--"}, args...) }

func newKubeExec() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "exec -- COMMAND",
		Short: "Run a holdfast command in one of the cluster's own pods, by kubectl",
		Long: `Run a holdfast command in a pod of the DaemonSet, through kubectl, with its
configuration and your rights. Linked as kubectl-holdfast, this program does
that with all its arguments: kubectl holdfast volume list.`,
		Example: `  holdfast kube exec -- version`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			run := exec.CommandContext(cmd.Context(), "kubectl", append([]string{"exec", "-i", "-n", namespace, "daemonset/holdfast", "-c", "node", "--", "holdfast"}, args...)...)
			run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			if err := run.Run(); err != nil {
				return fault.Errorf("kube exec", fault.Unknown, "kubectl: %w", err)
			}
			return nil
		},
	}
	at := os.Getenv("HOLDFAST_NAMESPACE")
	if at == "" {
		at = "holdfast"
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", at, "where Holdfast runs; HOLDFAST_NAMESPACE")
	return cmd
}
