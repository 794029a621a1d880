package cli

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/daemon"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// newMetadataCommand returns the commands that look after the store of the cluster's
// state. They work on a node's own machine, and without the API.
func newMetadataCommand(out *output, r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "metadata",
		Short: "Look after the store of the cluster's state: members, dumps, restore",
		Long: `Look after the store of the cluster's state, on a node's own machine, as root.
These commands ask the members of the store themselves, so they work when the
API does not.`,
	})
	var runDir string
	cmd.PersistentFlags().StringVar(&runDir, "run-dir", "/run/holdfast", "the node's `directory` for sockets; else that of the socket that --address names")
	open := func(cmd *cobra.Command) (*daemon.Metadata, error) {
		if !cmd.Flags().Changed("run-dir") && strings.HasSuffix(r.socket(), "/api.sock") {
			runDir = filepath.Dir(r.socket())
		}
		if _, err := os.Stat(filepath.Join(runDir, "node.yaml")); err != nil {
			return nil, fault.WithCure(fault.Errorf("metadata", fault.KindOf(err), "no node runs here: %w", err),
				"run this as root on a node's machine; if the node has a run directory of its own, name it with --run-dir")
		}
		o, err := childOptions(cmd, filepath.Join(runDir, "node.yaml"))
		if err != nil {
			return nil, err
		}
		return daemon.OpenMetadata(o)
	}
	cmd.AddCommand(newMetadataStatus(out, open), newMetadataMembers(out, open), newMetadataDump(out, open), newMetadataRestore(out, open))
	return cmd
}

type openMetadata func(*cobra.Command) (*daemon.Metadata, error)

func newMetadataMembers(out *output, open openMetadata) *cobra.Command {
	return &cobra.Command{
		Use:   "members",
		Short: "List the members of the store",
		Long: `List the members of the embedded etcd: where each is, whether it votes or still
learns, which one leads, and whether it answers.`,
		Example: `  holdfast metadata members
  holdfast metadata members -o json`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := open(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			list, err := m.Members(cmd.Context())
			if err != nil {
				return err
			}
			return out.print(list, func(t *table) { drawMembers(t, list) })
		},
	}
}

func drawMembers(t *table, list []daemon.Member) {
	t.row("ID", "NODE", "ADDRESS", "ROLE", "HEALTHY", "SIZE")
	for _, m := range list {
		t.row(m.ID, cmp.Or(m.Name, m.Node), m.Address, m.Role, m.Healthy, bytesText(m.Bytes))
	}
}

// metadataStatus is what holdfast metadata status prints.
type metadataStatus struct {
	Members []daemon.Member `json:"members"`
	Healthy bool            `json:"healthy"` // all members
	Dumps   []string        `json:"dumps"`   // of this node
}

func newMetadataStatus(out *output, open openMetadata) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how the store does, and which dumps there are",
		Long: `Say how the embedded etcd does, and which dumps this node keeps. When no member
answers, start the nodes that have one; when more than half of them are lost for
good, see holdfast metadata restore --help.`,
		Example: `  holdfast metadata status`,
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := open(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			s := metadataStatus{}
			if s.Dumps, err = m.Dumps(); err != nil {
				return err
			}
			if s.Members, err = m.Members(cmd.Context()); err != nil {
				return err
			}
			s.Healthy = true
			for _, one := range s.Members {
				s.Healthy = s.Healthy && one.Healthy
			}
			return out.print(s, func(t *table) {
				drawMembers(t, s.Members)
				t.section()
				t.field("healthy", s.Healthy)
				t.field("dumps here", len(s.Dumps))
				if len(s.Dumps) > 0 {
					t.field("latest", s.Dumps[len(s.Dumps)-1])
				}
			})
		},
	}
}

func newMetadataDump(out *output, open openMetadata) *cobra.Command {
	return &cobra.Command{
		Use:   "dump [FILE]",
		Short: "Write everything that the store holds into a file",
		Long: `Write everything that the store holds, as of one moment, into FILE, which must
not exist yet; without FILE among the dumps that this node keeps. Nodes do the
latter by themselves every two minutes. A dump holds the cluster's secrets: who
reads it can become a node.`,
		Example: `  holdfast metadata dump
  holdfast metadata dump /root/before-upgrade.dump`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := open(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			file := ""
			if len(args) > 0 {
				file = args[0]
			}
			if file, err = m.Dump(cmd.Context(), file); err != nil {
				return err
			}
			return out.print(map[string]string{"file": file}, func(t *table) { t.field("dumped to", file) })
		},
	}
}

func newMetadataRestore(out *output, open openMetadata) *cobra.Command {
	return &cobra.Command{
		Use:   "restore DUMP",
		Short: "Begin the store anew with what a dump holds",
		Long: `Begin the cluster's store anew on this node alone, with what a dump holds: for
when more than half of the members are lost for good. What was decided after
the dump was written is forgotten; volumes that are attached go on.

First stop the nodes whose members still run: two stores of one cluster must not
be. Other nodes find the new store when they are started again, put their old
members' data aside, and become members as before.`,
		Example: `  holdfast metadata restore /var/lib/holdfast/dumps/20261126T140300.000Z.dump`,
		Args:    exactly("DUMP"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := open(cmd)
			if err != nil {
				return err
			}
			defer m.Close()
			h, err := m.Restore(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return out.print(h, func(t *table) {
				t.field("restored", fmt.Sprintf("%d items, as of %s", h.Items, h.Time.Format("2006-01-02 15:04:05 MST")))
				t.field("next", "start the other nodes again")
			})
		},
	}
}
