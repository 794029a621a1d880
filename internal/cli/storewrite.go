package cli

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

func newStoreWrite(out *output) *cobra.Command {
	var offset quantity
	var input string
	cmd := &cobra.Command{
		Use:   "write REPLICA",
		Short: "Write a file or standard input into a volume",
		Long: `Write what --input holds into the volume from --offset on. Offset and length
must be whole blocks of 4096 bytes; nothing is padded. A file is refused
before anything is written, standard input when its last block turns out to be
partial.`,
		Example: `  holdfast store write /var/lib/holdfast/pools/try/demo --input disk.img
  gunzip -c disk.gz | holdfast store write /var/lib/holdfast/pools/try/demo --offset 64Mi`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := extentOf(offset, 0); err != nil {
				return err
			}
			in, length, closeInput, err := openInput(cmd, input)
			if err != nil {
				return err
			}
			defer closeInput()
			v := transferView{Offset: int64(offset)}
			err = withReplica(cmd.Context(), args[0], func(s *session) (err error) {
				v.Path = s.dir()
				p := newProgress(cmd, "written", length)
				defer p.end()
				v.Bytes, err = s.write(cmd.Context(), int64(offset), length, in, p)
				return err
			})
			if err != nil {
				return err
			}
			return out.print(v, v.draw("wrote"))
		},
	}
	cmd.Flags().Var(&offset, "offset", "in the volume where the first byte goes")
	cmd.Flags().StringVar(&input, "input", "-", "`file` to read; - is standard input")
	return cmd
}

// openInput opens what is to be written. length is -1 when it can't be known.
func openInput(cmd *cobra.Command, name string) (in io.Reader, length int64, closeInput func(), err error) {
	if name == "-" {
		return cmd.InOrStdin(), -1, func() {}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, nil, fault.Wrap("input", err)
	}
	stat, err := f.Stat()
	length = -1
	if err == nil && stat.Mode().IsRegular() {
		if length = stat.Size(); length%block.Size != 0 {
			err = partial(name, length)
		}
	}
	if err != nil {
		f.Close()
		return nil, 0, nil, fault.Wrap("input", err)
	}
	return f, length, func() { f.Close() }, nil
}

func partial(name string, length int64) error {
	cure := "pad it, such as with: truncate -s %4096 " + quoted(name)
	if name == "-" {
		name, cure = "standard input", "pad it to a multiple of 4096 bytes"
	}
	return fault.WithCure(fault.Errorf("input", fault.Invalid, "%s has %d bytes, which are not whole blocks of %d", name, length, block.Size), cure)
}

// write writes in at offset until in ends, and returns how many bytes that were. length is
// what in has, or -1.
func (s *session) write(ctx context.Context, offset, length int64, in io.Reader, p *progress) (written int64, err error) {
	room := s.r.Manifest().Size - offset
	if length > room || room <= 0 {
		return 0, fault.WithCure(fault.Errorf("write", fault.Invalid, "the input does not fit: from offset %d on, the volume has %d bytes", offset, max(0, room)),
			"make the volume larger: holdfast store grow "+quoted(s.dir()))
	}
	lanes := newLanes()
	defer func() {
		for _, l := range lanes {
			err = first(err, s.settle(l))
		}
	}()
	for turn := 0; ; turn++ {
		l := lanes[turn%depth]
		if err := s.settle(l); err != nil {
			return written, err
		}
		buf := l.buffer()
		n, err := io.ReadFull(in, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return written, fault.Wrap("input", err)
		}
		ended := err != nil
		whole := n / block.Size * block.Size
		if int64(whole) > room-written {
			return written, fault.Errorf("write", fault.Invalid, "the input does not fit: the first %d bytes of it were written, then the volume ended", written)
		}
		if whole > 0 {
			s.send(l, store.Write, offset+written, whole)
			written += int64(whole)
			p.show(written)
		}
		switch {
		case n > whole:
			return written, first(s.settle(l), partial("-", written+int64(n-whole)))
		case ended:
			return written, nil
		case ctx.Err() != nil:
			return written, interrupted()
		}
	}
}

func newStoreZero(out *output) *cobra.Command {
	var offset, length quantity
	cmd := &cobra.Command{
		Use:   "zero REPLICA --length BYTES",
		Short: "Make a part of a volume read as zeros, and free its space",
		Long: `Make --length bytes of the volume from --offset on read as zeros. What no
snapshot shows of them takes no space any more.`,
		Example: `  holdfast store zero /var/lib/holdfast/pools/try/demo --offset 64Mi --length 4Mi`,
		Args:    exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := extentOf(offset, length)
			if err != nil {
				return err
			}
			v := transferView{Offset: int64(offset), Bytes: int64(length)}
			err = withReplica(cmd.Context(), args[0], func(s *session) error {
				v.Path = s.dir()
				if err := s.within(e); err != nil || e.Empty() {
					return err
				}
				return s.do(&store.Request{Verb: store.Zero, Extent: e})
			})
			if err != nil {
				return err
			}
			return out.print(v, v.draw("zeroed"))
		},
	}
	cmd.Flags().Var(&offset, "offset", "in the volume of the first byte")
	cmd.Flags().Var(&length, "length", "how much to zero")
	_ = cmd.MarkFlagRequired("length") // the flag exists
	return cmd
}
