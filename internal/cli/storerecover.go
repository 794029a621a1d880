package cli

import (
	"bufio"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

// recovered is what was given up, as commands print it.
type recovered struct {
	Path   string `json:"path"`
	Volume string `json:"volume"`
	Done   bool   `json:"done"` // false: there was nothing to give up
	What   string `json:"what"`
}

func (v recovered) draw(t *table) {
	t.row("replica:", v.Path)
	t.row("volume:", v.Volume)
	t.row("result:", v.What)
}

func newStoreAccept(out *output) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "accept REPLICA",
		Short: "Take a replica as it is that lost what was not flushed",
		Long: `Take REPLICA as it is, after asking, although its disk failed or its machine
lost power with writes that were not flushed. Everything that was flushed is
there; what was written since may be missing, wholly or in part.

A replica of a cluster needs this only when no other replica of the volume is
left: while there is one, the cluster brings this one up to date from it, and
takes it back by itself.`,
		Example: `  holdfast store accept /var/lib/holdfast/pools/try/demo
  holdfast store accept /var/lib/holdfast/pools/try/demo --yes`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v recovered
			err := withReplica(cmd.Context(), args[0], func(s *session) error {
				v = recovered{Path: s.dir(), Volume: s.r.Manifest().Volume.String(), What: "nothing is in doubt"}
				why := ""
				switch {
				case s.r.Lost() != nil:
					why, _ = fault.Describe(s.r.Lost())
				case s.r.Forgot():
					why = "it was not closed before its machine was started anew"
				default:
					return nil
				}
				if err := mayGiveUp(cmd, yes, fmt.Sprintf("what the replica at %s had not flushed (%s)", s.dir(), why)); err != nil {
					return err
				}
				v.Done, v.What = true, "taken as it is; what was given up: writes that were not flushed, because "+why
				return await(s.disk, s.r.Accept)
			})
			if err != nil {
				return err
			}
			return out.print(v, v.draw)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func newStoreResetRegion(out *output) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset-region REPLICA REGION",
		Short: "Give up a region whose metadata is damaged",
		Long: `Give up, after asking, what the live generation of REPLICA holds of region
REGION, whose metadata is damaged, as holdfast store check says. The region's
number is its offset in the volume divided by 4 MiB.

Until then every read and write of the region fails. Afterwards it can be
written again; what was not written since reports that it is lost, and is never
shown as something else. A region whose metadata is fine is left as it is.

A replica of a cluster needs this only when no other replica of the volume is
left: while there is one, the cluster fills the region from it by itself.`,
		Example: `  holdfast store reset-region /var/lib/holdfast/pools/try/demo 17`,
		Args:    exactly("REPLICA", "REGION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			number, err := strconv.ParseUint(args[1], 10, 32)
			if err != nil {
				return fault.Errorf("arguments", fault.Invalid, "%q is not a region: want a number from 0 up, an offset in the volume divided by 4 MiB", args[1])
			}
			var v recovered
			err = withReplica(cmd.Context(), args[0], func(s *session) error {
				v, err = s.resetRegion(cmd, block.Region(number), yes)
				return err
			})
			if err != nil {
				return err
			}
			return out.print(v, v.draw)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// resetRegion gives region n up, if its metadata is damaged.
func (s *session) resetRegion(cmd *cobra.Command, n block.Region, yes bool) (recovered, error) {
	m := s.r.Manifest()
	v := recovered{Path: s.dir(), Volume: m.Volume.String(), What: fmt.Sprintf("the metadata of region %d is fine", n)}
	reset := func() error { return await(s.disk, func(done func(error)) { s.r.Reset(n, done) }) }
	if int(n) >= block.Regions(m.Size) {
		return v, reset() // which says what is wrong with it
	}
	_, err := s.sum(block.Extent{Start: n.Start(), Count: 1}, 0)
	bad := new(store.BadBlock)
	switch {
	case errors.As(err, &bad) && bad.What != "block": // a block alone may have been lost before
	case err != nil && !fault.Is(err, fault.Corrupt):
		return v, err
	default:
		return v, nil
	}
	what := fmt.Sprintf("what the replica at %s holds of region %d, %d bytes at offset %d of the volume",
		s.dir(), n, min(block.RegionSize, m.Size-n.Start().Offset()), n.Start().Offset())
	if err := mayGiveUp(cmd, yes, what); err != nil {
		return v, err
	}
	v.Done, v.What = true, "given up: "+what
	return v, reset()
}

// mayGiveUp asks whether something may be lost for good, unless that was said before.
func mayGiveUp(cmd *cobra.Command, yes bool, what string) error {
	if yes {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Give up %s?\nType yes: ", what)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // no answer is no
	if strings.TrimSpace(answer) == "yes" {
		return nil
	}
	fmt.Fprintln(cmd.ErrOrStderr())
	return fault.WithCure(fault.Errorf("confirm", fault.Canceled, "nothing was given up"), "answer yes, or say --yes")
}
