package cli

import (
	"context"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

func newStoreSnapshot(out *output) *cobra.Command {
	var gen uint32
	cmd := &cobra.Command{
		Use:   "snapshot REPLICA",
		Short: "Make what the volume holds now a snapshot, and print its generation",
		Long: `Keep what the volume holds now, for good, under the number of the live
generation, and begin the next one. The number is printed. It costs one small
file, however large the volume is.

With --generation, nothing happens if that generation is a snapshot already:
so a script can repeat the command.`,
		Example: `  holdfast store snapshot /var/lib/holdfast/pools/try/demo
  holdfast store snapshot /var/lib/holdfast/pools/try/demo --generation 3`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("generation") && gen == 0 {
				return fmt.Errorf("--generation: generations count from 1")
			}
			var taken block.Generation
			err := withReplica(cmd.Context(), args[0], func(s *session) error {
				live := s.r.Manifest().Generation
				if taken = block.Generation(gen); taken == 0 {
					taken = live
				}
				if taken > live { // which a head may skip to, and a person does by mistake
					return fault.Errorf("store snapshot", fault.Precondition, "generation %d is not the live one, %d", taken, live)
				}
				return await(s.disk, func(done func(error)) { s.r.Snapshot(taken, done) })
			})
			if err != nil {
				return err
			}
			view := struct {
				Generation block.Generation `json:"generation"`
			}{taken}
			return out.print(view, func(t *table) { t.row(taken) })
		},
	}
	cmd.Flags().Uint32Var(&gen, "generation", 0, "the live generation's `number`, as it is expected to be")
	return cmd
}

// generationView is how much a generation shows, as commands print it.
type generationView struct {
	Generation     block.Generation `json:"generation"`
	Live           bool             `json:"live"`
	UsedBytes      int64            `json:"usedBytes"`
	ExclusiveBytes int64            `json:"exclusiveBytes"` // that only this generation shows: its deletion frees them
	SharedBytes    int64            `json:"sharedBytes"`
}

func drawGenerations(t *table, list []generationView) {
	t.row("GENERATION", "USED", "EXCLUSIVE", "SHARED")
	for _, v := range list {
		name := fmt.Sprint(v.Generation)
		if v.Live {
			name += " (live)"
		}
		t.row(name, bytesText(v.UsedBytes), bytesText(v.ExclusiveBytes), bytesText(v.SharedBytes))
	}
}

// usageView is where a replica's space goes, as commands print it.
type usageView struct {
	replicaView
	StoredBytes int64            `json:"storedBytes"`
	Generations []generationView `json:"generations"`
}

// usage counts what every generation shows.
func usage(ctx context.Context, replica string) (v usageView, err error) {
	err = withReplica(ctx, replica, func(s *session) error {
		var u store.Usage
		err := await(s.disk, func(done func(error)) {
			s.r.Usage(func(got store.Usage, err error) { u = got; done(err) })
		})
		if err != nil {
			return err
		}
		v = usageView{viewOfReplica(s.dir(), s.r.Manifest()), u.Stored, []generationView{}}
		for _, g := range u.Generations {
			v.Generations = append(v.Generations, generationView{g.Generation, g.Generation == v.Generation, g.Used, g.Exclusive, g.Shared()})
		}
		return nil
	})
	return v, err
}

func newStoreSnapshots(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "snapshots REPLICA",
		Short: "List the snapshots, and what their deletion would free",
		Long: `List the generations of REPLICA that are snapshots: how much data each shows,
how much of that only it shows, so that deleting it would free as much, and
how much it shares with other generations.`,
		Example: `  holdfast store snapshots /var/lib/holdfast/pools/try/demo`,
		Args:    exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := usage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			list := slices.DeleteFunc(v.Generations, func(g generationView) bool { return g.Live })
			return out.print(list, func(t *table) { drawGenerations(t, list) })
		},
	}
}

func newStoreUsage(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "usage REPLICA",
		Short: "Show where a replica's space goes",
		Long: `Count the data of REPLICA exactly, from its block tables: what is stored, and
for each generation what it shows, what only it shows, and what it shares.
Tables, journal and space that is reserved for coming writes are not counted.`,
		Example: `  holdfast store usage /var/lib/holdfast/pools/try/demo
  holdfast store usage /var/lib/holdfast/pools/try/demo -o json`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := usage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return out.print(v, func(t *table) {
				v.draw(t)
				t.field("stored", bytesText(v.StoredBytes))
				t.section()
				drawGenerations(t, v.Generations)
			})
		},
	}
}

func newStoreDeleteSnapshot(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "delete-snapshot REPLICA GENERATION",
		Short: "Delete a snapshot and free what only it shows",
		Long: `Delete the snapshot GENERATION, and wait until the space that no other
generation needs is free. A generation that is not there is a success; the
live one is refused.`,
		Example: `  holdfast store delete-snapshot /var/lib/holdfast/pools/try/demo 3`,
		Args:    exactly("REPLICA", "GENERATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			gen, err := parseGeneration(args[1])
			if err != nil {
				return err
			}
			err = withReplica(cmd.Context(), args[0], func(s *session) error {
				return first(
					await(s.disk, func(done func(error)) { s.r.DeleteSnapshot(gen, done) }),
					await(s.disk, s.r.Reclaimed))
			})
			if err != nil {
				return err
			}
			deleted := struct {
				Generation block.Generation `json:"generation"`
				Deleted    bool             `json:"deleted"`
			}{gen, true}
			return out.print(deleted, func(t *table) { t.row(fmt.Sprintf("deleted generation %d", gen)) })
		},
	}
}

// changedView is what changed between two generations, as commands print it.
type changedView struct {
	Since      block.Generation `json:"since"`
	Generation block.Generation `json:"generation"`
	Bytes      int64            `json:"bytes"`
	Extents    []extentView     `json:"extents"`
}

func newStoreChanged(out *output) *cobra.Command {
	var since, gen uint32
	cmd := &cobra.Command{
		Use:   "changed REPLICA --since GENERATION",
		Short: "List what was written after a snapshot",
		Long: `List the parts of the volume that were written or zeroed after the snapshot
that --since names and up to --generation, from the block tables. A block that
was written with what it held may be listed too. With --since 0, list what has
data.`,
		Example: `  holdfast store changed /var/lib/holdfast/pools/try/demo --since 3
  holdfast store changed /var/lib/holdfast/pools/try/demo --since 3 --generation 5 -o json`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := changedView{Since: block.Generation(since), Generation: block.Generation(gen), Extents: []extentView{}}
			err := withReplica(cmd.Context(), args[0], func(s *session) error { return s.changed(cmd.Context(), &v) })
			if err != nil {
				return err
			}
			return out.print(v, func(t *table) {
				t.row("OFFSET", "BYTES")
				for _, e := range v.Extents {
					t.row(e.Offset, e.Bytes)
				}
			})
		},
	}
	cmd.Flags().Uint32Var(&since, "since", 0, "`generation` of the snapshot to compare with; 0 for none")
	cmd.Flags().Uint32Var(&gen, "generation", 0, "`generation` up to which (default: the live one)")
	_ = cmd.MarkFlagRequired("since") // the flag exists
	return cmd
}

// changedStep is how many regions are looked at with one call.
const changedStep = 256

func (s *session) changed(ctx context.Context, v *changedView) error {
	m := s.r.Manifest()
	if v.Generation == 0 {
		v.Generation = m.Generation
	}
	if v.Since >= v.Generation {
		return fault.Errorf("changed", fault.Invalid, "--since %d is not before generation %d", v.Since, v.Generation)
	}
	for at := block.Region(0); int(at) < block.Regions(m.Size); {
		var extents []block.Extent
		err := await(s.disk, func(done func(error)) {
			s.r.Changed(v.Since, v.Generation, at, changedStep, func(list []block.Extent, next block.Region, err error) {
				extents, at = list, next
				done(err)
			})
		})
		if err != nil {
			return err
		}
		for _, e := range extents {
			v.add(viewOfExtent(e))
		}
		if ctx.Err() != nil {
			return interrupted()
		}
	}
	return nil
}

// add appends e, as part of the last extent where it goes on.
func (v *changedView) add(e extentView) {
	v.Bytes += e.Bytes
	if n := len(v.Extents); n > 0 && v.Extents[n-1].Offset+v.Extents[n-1].Bytes == e.Offset {
		v.Extents[n-1].Bytes += e.Bytes
		return
	}
	v.Extents = append(v.Extents, e)
}

// interrupted is what a command returns that the user ended.
func interrupted() error { return fault.Errorf("interrupt", fault.Canceled, "interrupted") }
