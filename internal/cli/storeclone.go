package cli

import (
	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

func newStoreClone(out *output) *cobra.Command {
	var size quantity
	var volume string
	cmd := &cobra.Command{
		Use:   "clone REPLICA GENERATION NEW",
		Short: "Make a new volume that begins as a snapshot",
		Long: `Make the replica NEW, in the same directory or pool as REPLICA, of a new
volume that begins as what the snapshot GENERATION shows. It shares files with
REPLICA by hard links, so it is quick and takes no space; afterwards each may
be changed and deleted on its own. A NEW that is this clone already is left as
it is.`,
		Example: `  holdfast store clone /var/lib/holdfast/pools/try/demo 3 /var/lib/holdfast/pools/try/copy`,
		Args:    exactly("REPLICA", "GENERATION", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			gen, err := parseGeneration(args[1])
			if err != nil {
				return err
			}
			spec, err := specOf(volume)
			if err != nil {
				return err
			}
			if size != 0 {
				if err := validSize(size); err != nil {
					return err
				}
			}
			spec.Size = int64(size)
			var view replicaView
			err = withReplica(cmd.Context(), args[0], func(s *session) error {
				to, err := s.sibling(args[2])
				if err == nil {
					view, err = s.clone(gen, to, spec, volume != "")
				}
				return err
			})
			if err != nil {
				return err
			}
			return out.print(view, view.draw)
		},
	}
	cmd.Flags().Var(&size, "size", "of the new volume, if it is to be larger")
	cmd.Flags().StringVar(&volume, "volume-id", "", "`id` of the new volume (default: a new one)")
	return cmd
}

// clone makes the clone, unless it is there already.
func (s *session) clone(gen block.Generation, to *place, spec store.Spec, sameVolume bool) (view replicaView, err error) {
	if is, err := to.look(to.name); err == nil && is == aReplica {
		m, err := to.manifest()
		mine := len(m.Origins) > 0 && m.Origins[0] == s.r.Manifest().Volume && m.Generation > gen &&
			(spec.Size == 0 || m.Size == spec.Size) && (!sameVolume || m.Volume == spec.Volume)
		if err == nil && !mine {
			err = fault.WithCure(fault.Errorf("clone", fault.Exists, "%s exists, and is not this clone", to.dir()), "choose another name")
		}
		return viewOfReplica(to.dir(), m), err
	}
	if err := to.vacant(); err != nil {
		return view, err
	}
	if err := await(s.disk, func(done func(error)) { s.r.Clone(gen, to.name, spec, done) }); err != nil {
		return view, err
	}
	m, err := to.manifest()
	return viewOfReplica(to.dir(), m), err
}

func newStoreGrow(out *output) *cobra.Command {
	var size quantity
	cmd := &cobra.Command{
		Use:   "grow REPLICA --size BYTES",
		Short: "Make a volume larger",
		Long: `Make the volume of REPLICA as large as --size says. The new part reads as
zeros. Volumes never shrink; one that has the size already is left as it is.`,
		Example: `  holdfast store grow /var/lib/holdfast/pools/try/demo --size 2Gi`,
		Args:    exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validSize(size); err != nil {
				return err
			}
			var view replicaView
			err := withReplica(cmd.Context(), args[0], func(s *session) error {
				if now := s.r.Manifest().Size; int64(size) < now {
					return fault.Errorf("grow", fault.Invalid, "the volume has %d bytes, and volumes never shrink", now)
				}
				err := await(s.disk, func(done func(error)) { s.r.Grow(int64(size), done) })
				view = viewOfReplica(s.dir(), s.r.Manifest())
				return err
			})
			if err != nil {
				return err
			}
			return out.print(view, view.draw)
		},
	}
	cmd.Flags().Var(&size, "size", "that the volume is to have, such as 2Gi")
	_ = cmd.MarkFlagRequired("size") // the flag exists
	return cmd
}
