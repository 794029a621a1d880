// Package cli is the holdfast command: it reads arguments, calls a room, and prints what
// came back. It decides nothing.
//
// Results go to standard output, in the format of -o; errors once to standard error, as
// "holdfast: what happened", with the cure on a line of its own below. The exit status is that of
// the error's kind (see holdfast help exit-codes), and 2 for wrong arguments.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Streams are what a command reads and writes.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// Main runs the command that args name, without the program's own name, and returns the
// exit status. Ending ctx interrupts the command.
func Main(ctx context.Context, args []string, streams Streams) (status int) {
	if len(args) > 0 && args[0] == "keeper" { // it is to be as small as can be
		return keeper.Main(args[1:])
	}
	if len(args) > 0 && args[0] == "errand" {
		return errand.Main()
	}
	root := newRoot(streams)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !errors.As(err, new(*fault.Error)) { // rooms give kinds; what has none is cobra's
		cure := "see " + cmd.CommandPath() + " --help"
		err = fault.WithCure(fault.Errorf(cmd.Name(), fault.Invalid, "%w", err), cure)
	}
	what, cure := fault.Describe(err)
	fmt.Fprintf(streams.Err, "holdfast: %s\n", what)
	if cure != "" {
		fmt.Fprintf(streams.Err, "  cure: %s\n", cure)
	}
	return fault.KindOf(err).ExitCode()
}

// newRoot builds the tree of commands. A new command gets a line here and a file of its
// own, with a function that takes the output and returns a *cobra.Command.
func newRoot(streams Streams) *cobra.Command {
	out := &output{w: streams.Out}
	cluster := &remote{out: out}
	root := group(&cobra.Command{
		Use:   "holdfast",
		Short: "Storage for containers on the cluster's own disks",
		Long: `Holdfast keeps virtual volumes for containers on the cluster's own disks.

A machine becomes a node of a cluster with holdfast node; holdfast up is a
cluster of one, for a first try.

Most commands talk to the API of a cluster: on a machine that runs a node,
through its socket, as root and without a token; elsewhere with --address and
--token. holdfast store, and holdfast pool with paths, work on what lies on
this machine.`,
		SilenceErrors: true, // Main prints them
		SilenceUsage:  true, // a failure is no reason to explain the flags
	})
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.Err)
	root.PersistentFlags().VarP(&out.format, "output", "o", "how results are printed: table, wide, json or yaml")
	cluster.flags(root)
	root.AddCommand(
		newStatusCommand(cluster),
		newClusterCommand(cluster),
		newNodesCommand(out, cluster),
		newVolumeCommand(cluster),
		newSnapshotCommand(cluster),
		newPolicyCommand(cluster),
		newOperationCommand(cluster),
		newEventsCommand(cluster),
		newTokenCommand(cluster),
		newDoctorCommand(cluster),
		newBenchCommand(cluster),
		newMetadataCommand(out, cluster),
		newPoolCommand(out, cluster),
		newStoreCommand(out),
		newCSICommand(),
		newDockerCommand(),
		newKubeCommand(),
		newUpCommand(out),
		newVersionCommand(out),
		newExitCodesTopic(),
	)
	root.AddCommand(newProcessCommands()...)
	cluster.completions(root)
	return root
}

// group makes cmd a command that only holds others: alone it prints its help.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.Args = onlyCommands
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.SuggestionsMinimumDistance = 2
	return cmd
}

// onlyCommands refuses arguments that are no command, and says what was probably meant.
func onlyCommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	text := fmt.Sprintf("there is no command %q", cmd.CommandPath()+" "+args[0])
	if similar := cmd.SuggestionsFor(args[0]); len(similar) > 0 {
		text += "; did you mean " + strings.Join(similar, " or ") + "?"
	}
	return errors.New(text)
}

// exactly demands the arguments that are named.
func exactly(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s, got %d arguments", strings.Join(names, " "), len(args))
		}
		return nil
	}
}

// some demands at least one argument of a kind.
func some(name string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return fmt.Errorf("want at least one %s", name)
		}
		return nil
	}
}

// newExitCodesTopic returns a page of help; it is no command.
func newExitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "The exit statuses, which scripts may rely on",
		Long: `A command exits with 0 when it did what it was asked, and otherwise with a
number that says what kind of thing went wrong. Scripts may rely on these
numbers, and never on texts.

  status  kinds                               what to do
  0       done
  1       unknown, unsupported, canceled,     read the message
          internal
  2       invalid                             correct the command
  3       not found                           check the name
  4       already exists, precondition, busy  see what stands in the way
  5       no space                            free some
  6       corrupt, media error                see to the disk; use another copy
  7       unavailable, timeout                try again
  8       fenced, denied                      ask who may`,
	}
}
