package cli

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/daemon"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/obs"
)

// newNodeCommand returns the command that runs a node; those that work on nodes are below
// it.
func newNodeCommand(out *output) *cobra.Command {
	var c daemon.Config
	var file string
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run this machine's node, and work with the nodes of the cluster",
		Long: `Run this machine as a node of a cluster, until it is told to end.

A machine that is in no cluster yet makes one, or, with --join and --token,
joins the one of another node; that one makes the token with holdfast token
create. After that the node knows who it is, and needs neither.
All nodes are equal; the first three run the cluster's etcd, and another takes
the place of one that is down for long.

Every setting can be given in three ways; the first one counts:
  a flag                     --zone b
  the environment            HOLDFAST_ZONE=b
  a YAML file, by --config   zone: b

The node runs three processes of this program, which end and are started again
independently: control (etcd, the API), data (all I/O) and the keeper (which
holds devices while data is being started again). To log more or otherwise, set
HOLDFAST_LOG_LEVEL to debug, or HOLDFAST_LOG_FORMAT to json.`,
		Example: `  # the first node of a new cluster, with a pool that exists or will be made
  holdfast node --name n1 --zone a --pool /var/lib/holdfast/pools/nvme1

  # another node
  holdfast node --join 10.0.0.1 --token hf1.… --name n2 --zone b --pool /srv/pool

  # all settings in a file
  holdfast node --config /etc/holdfast/node.yaml

  # a second node on the same machine
  holdfast node --name n2 --address 127.0.0.2 --data-dir /srv/n2 --run-dir /run/n2 --link-dir /dev/n2 --join 127.0.0.1 --token hf1.…`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := daemon.Load(cmd.Flags(), os.Getenv, fileOf(file)); err != nil {
				return err
			}
			return runNode(cmd, out, c)
		},
	}
	c.Flags(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "YAML `file` with settings, named as the flags are (also HOLDFAST_CONFIG)")
	return cmd
}

func fileOf(flag string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv("HOLDFAST_CONFIG")
}

func runNode(cmd *cobra.Command, out *output, c daemon.Config) error {
	log, err := obs.OptionsFromEnv(os.Getenv)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fault.Wrap("node", err)
	}
	return daemon.Node(cmd.Context(), daemon.NodeOptions{Config: c, Program: program, Version: thisVersion().Version, Out: out.w,
		Log: log.Logger(cmd.ErrOrStderr())})
}

// newUpCommand returns the command for a first try.
func newUpCommand(out *output) *cobra.Command {
	var c daemon.Config
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a cluster of one node, with a pool in a file: for a first try",
		Long: `Run a cluster of one node on this machine, with all that it needs in one
directory: its etcd, and a pool that is a file. It is the same as holdfast node,
with a pool, and others can join it.`,
		Example: `  holdfast up
  holdfast up --data-dir ./try --run-dir ./try/run --pool-size 5Gi`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := daemon.Load(cmd.Flags(), os.Getenv, ""); err != nil {
				return err
			}
			if len(c.Pools) == 0 {
				c.Pools = []string{c.DefaultPool()}
			}
			return runNode(cmd, out, c)
		},
	}
	c.Flags(cmd.Flags())
	return cmd
}

// newProcessCommands returns the commands that a node starts its processes with. People
// have no use for them.
func newProcessCommands() []*cobra.Command {
	process := func(name, short, does string, run func(*cobra.Command, daemon.ChildOptions) error) *cobra.Command {
		var file string
		cmd := &cobra.Command{Use: name, Short: short, Hidden: true, Args: exactly(),
			Long:    short + ", which holdfast node starts: it does\n" + does + ".",
			Example: "  holdfast " + name + " --config /run/holdfast/node.yaml",
			RunE: func(cmd *cobra.Command, _ []string) error {
				o, err := childOptions(cmd, file)
				if err != nil {
					return err
				}
				return run(cmd, o)
			}}
		cmd.Flags().StringVar(&file, "config", "/run/holdfast/node.yaml", "`file` that holdfast node has written")
		return cmd
	}
	return []*cobra.Command{
		process("data", "A node's data process", "all I/O of its volumes and replicas", func(cmd *cobra.Command, o daemon.ChildOptions) error {
			return daemon.Data(cmd.Context(), o)
		}),
		process("control", "A node's control process", "etcd, the API, and the decisions of the cluster when it leads", func(cmd *cobra.Command, o daemon.ChildOptions) error {
			return daemon.Control(cmd.Context(), o)
		}),
	}
}

func childOptions(cmd *cobra.Command, file string) (daemon.ChildOptions, error) {
	log, err := obs.OptionsFromEnv(os.Getenv)
	if err != nil {
		return daemon.ChildOptions{}, err
	}
	program, err := os.Executable()
	return daemon.ChildOptions{File: file, Program: program, Version: thisVersion().Version, Log: log.Logger(cmd.ErrOrStderr())},
		fault.Wrap("node", err)
}
