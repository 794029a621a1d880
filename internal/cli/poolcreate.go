package cli

import (
	"crypto/rand"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/pool"
)

func newPoolCreate(out *output) *cobra.Command {
	var o struct {
		pool.CreateOptions
		cluster          string
		class            string
		size             quantity
		image, directory bool
	}
	cmd := &cobra.Command{
		Use:   "create PATH",
		Short: "Make a pool",
		Long: `Make a pool in the directory PATH, which must be empty or not exist yet, and
leave it mounted.

On XFS and btrfs the directory is used as it is. On any other filesystem, a
sparse file in it becomes an XFS filesystem, seen through a loop device;
--directory uses the directory nevertheless, if its filesystem has direct I/O
and holes. With --device, an XFS filesystem is made on a whole block device, and
mounted below PATH. A device that carries anything, be it a filesystem, a
partition table or another pool, is refused unless --force is given; one that is
in use is refused always.

The disk is measured for a short time, for the pool's class: high, medium or
low, as Portworx's io_priority has it.`,
		Example: `  # a first try: 20 GiB in a file
  holdfast pool create /var/lib/holdfast/pools/try --size 20Gi

  # a disk of its own
  holdfast pool create /var/lib/holdfast/pools/nvme1 --device /dev/nvme1n1

  # for a cluster that exists, with 10 % in reserve
  holdfast pool create /srv/pool --cluster 0d9f3c6e-52a1-4c5e-8d8a-6a8f3b1c2d4e --reserve 10`,
		Args: exactly("PATH"),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Path, o.SizeBytes, o.Class = args[0], int64(o.size), pool.Class(o.class)
			switch {
			case o.directory:
				o.Kind = pool.Directory
			case o.image || o.size > 0:
				o.Kind = pool.Image
			}
			if o.Cluster, err = clusterOf(o.cluster); err != nil {
				return err
			}
			p, err := pool.Create(cmd.Context(), o.CreateOptions)
			if err != nil {
				return err
			}
			return printMounted(out, p)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Device, "device", "", "use this block device")
	flags.BoolVar(&o.image, "image", false, "use an XFS filesystem in a file, even on XFS or btrfs")
	flags.BoolVar(&o.directory, "directory", false, "use the directory as it is, even on ext4")
	flags.Var(&o.size, "size", "of the image, such as 20Gi (default: half of what is free); asks for an image")
	flags.StringVar(&o.cluster, "cluster", "", "`id` of the cluster that the pool belongs to (default: a new one)")
	flags.IntVar(&o.ReservePercent, "reserve", pool.ReserveDefault, "`percent` of the capacity that is kept free")
	flags.StringVar(&o.class, "class", "", "high, medium or low, instead of what is measured")
	flags.DurationVar(&o.MeasureFor, "measure", pool.MeasureDefault, "for how long to measure the disk")
	flags.BoolVar(&o.Force, "force", false, "overwrite what the device carries; allow tmpfs, and an image larger than the disk")
	cmd.MarkFlagsMutuallyExclusive("device", "image", "directory")
	cmd.MarkFlagsMutuallyExclusive("device", "size")
	cmd.MarkFlagsMutuallyExclusive("directory", "size")
	return cmd
}

// clusterOf reads a cluster's id; "" is a new one.
func clusterOf(id string) (block.ClusterID, error) {
	if id == "" {
		return block.NewClusterID(rand.Reader)
	}
	cluster, err := block.ParseClusterID(id)
	if err != nil {
		err = fmt.Errorf("--cluster: %w", err)
	}
	return cluster, err
}
