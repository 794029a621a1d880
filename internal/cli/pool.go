package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/pool"
)

// poolsDir is where pools are looked for when nobody says where.
const poolsDir = "/var/lib/holdfast/pools"

func newPoolCommand(out *output, r *remote) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "pool",
		Short: "Make and look after pools: the places on this machine where replicas live",
		Long: `A pool is a place on this machine where replicas live, named by a directory.
It is that directory itself, or an XFS filesystem mounted below it, in an image
file or on a block device.

Commands that take a PATH work on this machine, with or without a cluster, and
most of them need root. Commands that take a POOL work on the pools that the
cluster knows, by name or id.`,
	})
	cmd.AddCommand(newPoolCreate(out), newPoolShow(out), newPoolList(out, r), newPoolCheck(out), newPoolSet(out),
		newPoolRemount(out), newPoolUnmount(out), newPoolWipe(out))
	cmd.AddCommand(poolVerbs(r)...)
	return cmd
}

func newPoolShow(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "show PATH",
		Short: "Show what a pool is, how full, and how healthy",
		Long: `Show the pool at PATH: identity, class, capacity, health. Nothing is changed and
nothing is mounted, and it makes no difference whether a process has the pool
open.`,
		Example: `  holdfast pool show /var/lib/holdfast/pools/try
  holdfast pool show /var/lib/holdfast/pools/try -o json`,
		Args: exactly("PATH"),
		RunE: func(_ *cobra.Command, args []string) error { return printReport(out, args[0]) },
	}
}

func newPoolList(out *output, r *remote) *cobra.Command {
	q := &v1.ListPoolsRequest{}
	var watch bool
	cmd := &cobra.Command{
		Use:   "list [DIR]",
		Short: "List the pools of the cluster, or those in a directory",
		Long: `List the pools of the cluster. With DIR, and on a machine where no node runs,
list the pools at DIR and directly below it, with their health. DIR is then
` + poolsDir + ` when it is left out.`,
		Example: `  holdfast pool list
  holdfast pool list --node n1 -o wide
  holdfast pool list /srv -o yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			asked := watch || q.Node != "" || q.Class != "" || q.Selector != ""
			if len(args) == 0 && (asked || r.reachable()) {
				return r.listPools(cmd, q, watch)
			}
			return listLocalPools(out, args)
		},
	}
	f := cmd.Flags()
	f.StringVar(&q.Node, "node", "", "only those of this `node` of the cluster")
	f.StringVar(&q.Class, "class", "", "only those of this `class`")
	f.StringVarP(&q.Selector, "selector", "l", "", "only those with these `labels`")
	watchFlag(cmd, &watch)
	return cmd
}

// listLocalPools lists the pools in a directory of this machine.
func listLocalPools(out *output, args []string) error {
	dir := poolsDir
	if len(args) > 0 {
		dir = args[0]
	}
	reports, err := pool.List(dir)
	if fault.Is(err, fault.NotFound) && len(args) == 0 {
		err = nil // nobody has made one yet
	}
	if err != nil {
		return err
	}
	views := []poolView{}
	for _, r := range reports {
		views = append(views, viewOf(r))
	}
	return out.print(views, func(t *table) {
		t.row("PATH", "KIND", "CLASS", "CAPACITY", "USED", "AVAILABLE", "STATE")
		for _, v := range views {
			t.row(v.Path, v.Kind, v.Class, bytesText(v.CapacityBytes), bytesText(v.UsedBytes), bytesText(v.AvailableBytes), v.State)
		}
	})
}

func newPoolCheck(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "check PATH",
		Short: "Check that a pool can be opened, read and written",
		Long: `Open the pool at PATH, mounting it for the while if it isn't, and check that its
identity is intact, that it can be read from the disk and written durably, and
that it isn't full. The exit status says what is wrong: 5 for full, 6 for
broken, 3 for gone. A pool that a process has open is checked without writing
to it.`,
		Example: `  holdfast pool check /var/lib/holdfast/pools/try`,
		Args:    exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := checkPool(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			v := viewOf(r)
			if err := out.print(v, v.draw); err != nil {
				return err
			}
			return unhealthy(r)
		},
	}
}

func newPoolSet(out *output) *cobra.Command {
	var reserve int
	var class string
	cmd := &cobra.Command{
		Use:   "set PATH",
		Short: "Change a pool's reserve or class",
		Long: `Change settings of the pool at PATH, for good. The pool must not be open in
another process.`,
		Example: `  holdfast pool set /var/lib/holdfast/pools/try --reserve 10
  holdfast pool set /var/lib/holdfast/pools/try --class low
  holdfast pool set /var/lib/holdfast/pools/try --class measured`,
		Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("reserve") && !cmd.Flags().Changed("class") {
				return fmt.Errorf("want --reserve or --class")
			}
			p, err := pool.Open(cmd.Context(), args[0], pool.OpenOptions{AnyCluster: true})
			if err != nil {
				return err
			}
			defer p.Close()
			if cmd.Flags().Changed("reserve") {
				if err := p.SetReserve(reserve); err != nil {
					return err
				}
			}
			if cmd.Flags().Changed("class") {
				if class == "measured" {
					class = ""
				}
				if err := p.SetClass(pool.Class(class)); err != nil {
					return err
				}
			}
			return printReport(out, args[0])
		},
	}
	cmd.Flags().IntVar(&reserve, "reserve", 0, "`percent` of the capacity that is kept free")
	cmd.Flags().StringVar(&class, "class", "", "high, medium, low, or measured for what was found at creation")
	return cmd
}

func newPoolRemount(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "remount PATH",
		Short: "Mount a pool again, as after a reboot",
		Long: `Find the image or device of the pool at PATH again, mount it, and leave it
mounted. A device is found by its filesystem's UUID, under whatever name it has
now. What opens a pool does this by itself; this command is for looking into a
pool by hand.`,
		Example: `  holdfast pool remount /var/lib/holdfast/pools/nvme1`,
		Args:    exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := pool.Open(cmd.Context(), args[0], pool.OpenOptions{AnyCluster: true})
			if err != nil {
				return err
			}
			return printMounted(out, p)
		},
	}
}

func newPoolUnmount(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "unmount PATH",
		Short: "Unmount a pool and detach its loop device",
		Long: `Take the pool at PATH out of service: unmount its filesystem and detach its loop
device. A pool that is a directory as it is has nothing to unmount. While a
process has the pool open, this is refused.`,
		Example: `  holdfast pool unmount /var/lib/holdfast/pools/nvme1`,
		Args:    exactly("PATH"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := pool.Unmount(args[0]); err != nil {
				return err
			}
			return printReport(out, args[0])
		},
	}
}

func newPoolWipe(out *output) *cobra.Command {
	var id string
	var o pool.WipeOptions
	cmd := &cobra.Command{
		Use:   "wipe PATH --pool ID",
		Short: "Destroy a pool and all that is in it",
		Long: `Destroy the pool at PATH and every replica in it, whichever cluster it belongs
to. The pool's id has to be given, as holdfast pool show prints it, so that no
other pool is destroyed by mistake. The directory PATH stays, empty.

A pool that no longer knows its id, or that was only half made or half wiped,
is destroyed with --damaged instead.`,
		Example: `  holdfast pool wipe /srv/pool --pool 7b1e9002-0c44-4f7a-9e55-31d068af1193
  holdfast pool wipe /srv/pool --damaged`,
		Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if id != "" {
				if o.Pool, err = block.ParsePoolID(id); err != nil {
					return fmt.Errorf("--pool: %w", err)
				}
			}
			if err := pool.Wipe(cmd.Context(), args[0], o); err != nil {
				return err
			}
			wiped := struct {
				Path  string `json:"path"`
				Wiped bool   `json:"wiped"`
			}{args[0], true}
			return out.print(wiped, func(t *table) { t.row("wiped " + args[0]) })
		},
	}
	cmd.Flags().StringVar(&id, "pool", "", "`id` of the pool that is to be destroyed")
	cmd.Flags().BoolVar(&o.Damaged, "damaged", false, "destroy also what has no readable id, was interrupted, or lost its device")
	return cmd
}

// printMounted closes an open pool, leaving it mounted, and prints it.
func printMounted(out *output, p *pool.Pool) error {
	p.KeepMounted()
	if err := p.Close(); err != nil {
		return err
	}
	return printReport(out, p.Path())
}

func printReport(out *output, path string) error {
	r, err := pool.Inspect(path)
	if err != nil {
		return err
	}
	v := viewOf(r)
	return out.print(v, v.draw)
}

// checkPool reports on a pool as thoroughly as it can be.
func checkPool(ctx context.Context, path string) (pool.Report, error) {
	p, err := pool.Open(ctx, path, pool.OpenOptions{AnyCluster: true})
	if fault.Is(err, fault.Busy) {
		r, inspected := pool.Inspect(path)
		if inspected == nil && r.OwnerPID != 0 {
			return r, nil
		}
	}
	if err != nil {
		return pool.Report{}, err
	}
	r, err := pool.Inspect(path)
	if err == nil {
		r.Health, r.OwnerPID = p.Health(), 0 // it is only us
	}
	if closed := p.Close(); err == nil {
		err = closed
	}
	return r, err
}

// unhealthy turns a health into an error, for the exit status.
func unhealthy(r pool.Report) error {
	kind := fault.Media
	switch r.Health.State {
	case pool.Ready:
		return nil
	case pool.Full:
		kind = fault.NoSpace
	case pool.Missing, pool.Unmounted:
		kind = fault.NotFound
	}
	return fault.WithCure(fault.Errorf("check", kind, "the pool at %s is %s: %s", r.Path, r.Health.State, r.Health.Reason), r.Health.Cure)
}
