package cli

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func newStoreCommand(out *output) *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "store",
		Short: "Work on one replica that no process has open",
		Long: `A replica is one copy of a volume: a directory of files, see docs/concepts.md.
These commands work on one replica of this machine while no other process has
it open; a replica that is in use is refused.

REPLICA is the replica's directory, or POOL/VOLUME: a pool, and the replica's
name in it. Sizes and offsets are bytes, as in 4096, 64Ki or 20Gi; volumes are
read and written in blocks of 4096 bytes.

What these commands write is on the disk when they end with status 0. Inside a
pool, they keep to its reserve.`,
	})
	cmd.AddCommand(newStoreCreate(out), newStoreWrite(out), newStoreRead(out), newStoreZero(out),
		newStoreSnapshot(out), newStoreSnapshots(out), newStoreDeleteSnapshot(out), newStoreClone(out), newStoreGrow(out),
		newStoreChanged(out), newStoreUsage(out), newStoreCheck(out), newStoreScrub(out), newStoreDump(out), newStoreAccept(out), newStoreResetRegion(out), newStoreDelete(out))
	return cmd
}

// parseGeneration reads the number of a generation.
func parseGeneration(text string) (block.Generation, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 {
		return 0, fault.Errorf("arguments", fault.Invalid, "%q is not a generation: want a number from 1 up, as holdfast store snapshots prints it", text)
	}
	return block.Generation(n), nil
}

// extentOf converts bytes that a user gave to blocks.
func extentOf(offset, length quantity) (block.Extent, error) {
	e, ok := block.ExtentOf(int64(offset), int64(length))
	if !ok {
		what := fmt.Sprintf("offset %d is not the start of a block", int64(offset))
		if offset%block.Size == 0 {
			what = fmt.Sprintf("%d bytes are not whole blocks", int64(length))
		}
		return e, fault.WithCure(fault.Errorf("arguments", fault.Invalid, "%s", what), "use a multiple of "+strconv.Itoa(block.Size))
	}
	return e, nil
}

// validSize checks the size of a volume that a user gave.
func validSize(size quantity) error {
	if !block.ValidSize(int64(size)) {
		return fault.WithCure(fault.Errorf("arguments", fault.Invalid, "a volume can't have %d bytes", int64(size)),
			"use a multiple of "+strconv.Itoa(block.Size)+", at most 1Pi")
	}
	return nil
}

// extentView is a run of bytes of a volume, as commands print it.
type extentView struct {
	Offset int64 `json:"offset"`
	Bytes  int64 `json:"bytes"`
}

func viewOfExtent(e block.Extent) extentView { return extentView{e.Start.Offset(), e.Bytes()} }
