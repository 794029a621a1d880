package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

func newStoreRead(out *output) *cobra.Command {
	var offset, length quantity
	var gen uint32
	var name string
	cmd := &cobra.Command{
		Use:   "read REPLICA",
		Short: "Read from a volume, or from a snapshot of it",
		Long: `Read --length bytes of the volume from --offset on, as of --generation, into
--to. Every block is compared with its checksum; at one that is damaged the
command ends with status 6, after what comes before it.

A file gets holes where the volume reads as zeros.`,
		Example: `  holdfast store read /var/lib/holdfast/pools/try/demo --to disk.img
  holdfast store read /var/lib/holdfast/pools/try/demo --generation 3 --offset 64Mi --length 4Mi --to part.img`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := extentOf(offset, length)
			if err != nil {
				return err
			}
			if name == "-" && !cmd.Flags().Changed("to") && isTerminal(cmd.OutOrStdout()) {
				return fault.WithCure(fault.Errorf("read", fault.Invalid, "standard output is a terminal, which shows no data"),
					"say where the data goes: --to FILE")
			}
			v := transferView{Offset: int64(offset)}
			err = withReplica(cmd.Context(), args[0], func(s *session) error {
				v.Path = s.dir()
				if !cmd.Flags().Changed("length") {
					e.Count = uint64(max(0, s.r.Manifest().Size/block.Size-int64(e.Start)))
				}
				v.Bytes = e.Bytes()
				if err := s.within(e); err != nil {
					return err
				}
				to, err := openSink(cmd.OutOrStdout(), name)
				if err != nil {
					return err
				}
				p := newProgress(cmd, "read", e.Bytes())
				defer p.end()
				return first(s.read(cmd.Context(), e, block.Generation(gen), to, p), to.close())
			})
			if err != nil || name == "-" {
				return err
			}
			return out.print(v, v.draw("read"))
		},
	}
	cmd.Flags().Var(&offset, "offset", "in the volume of the first byte")
	cmd.Flags().Var(&length, "length", "how much to read (default: to the end)")
	cmd.Flags().Uint32Var(&gen, "generation", 0, "`number` of the snapshot to read (default: the live generation)")
	cmd.Flags().StringVar(&name, "to", "-", "`file` to write; - is standard output")
	return cmd
}

// read gives e, as of gen, to to, in order.
func (s *session) read(ctx context.Context, e block.Extent, gen block.Generation, to *sink, p *progress) (err error) {
	lanes := newLanes()
	defer func() {
		for _, l := range lanes {
			_ = s.settle(l) // the first error is known
		}
	}()
	asked, got := int64(0), int64(0)
	for asks, takes := 0, 0; got < e.Bytes(); takes++ {
		for ; asks < takes+depth && asked < e.Bytes(); asks++ {
			l := lanes[asks%depth]
			l.q.Generation = gen
			bytes := min(e.Bytes()-asked, store.RequestMax)
			s.send(l, store.Read, e.Start.Offset()+asked, int(bytes))
			asked += bytes
		}
		l := lanes[takes%depth]
		err := s.settle(l)
		if fault.Is(err, fault.Corrupt) {
			return first(s.salvage(l.q.Extent, gen, to), err)
		}
		if err == nil {
			err = to.write(l.q.Data)
		}
		if err != nil {
			return err
		}
		got += int64(len(l.q.Data))
		p.show(got)
		if ctx.Err() != nil {
			return interrupted()
		}
	}
	return nil
}

// salvage gives to to the blocks of e before the first damaged one, and returns what is
// wrong with that.
func (s *session) salvage(e block.Extent, gen block.Generation, to *sink) error {
	q := &store.Request{Verb: store.Read, Generation: gen, Data: host.Buffer(block.Size), Sums: make([]block.Sum, 1)}
	for at := e.Start; at < e.End(); at++ {
		q.Extent = block.Extent{Start: at, Count: 1}
		if err := s.do(q); err != nil {
			return err
		}
		if err := to.write(q.Data); err != nil {
			return err
		}
	}
	return nil
}
