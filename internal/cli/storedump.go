package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

// dumpView is what a replica's metadata says, as commands print it.
type dumpView struct {
	Path     string                  `json:"path"`
	Manifest store.Manifest          `json:"manifest"`
	Journal  store.JournalInfo       `json:"journal"`
	Regions  []store.RegionRange     `json:"regions"`
	Stores   []store.GenerationStore `json:"stores"`
	Damaged  int64                   `json:"damaged"`
}

// placeView is where a block lies, as commands print it.
type placeView struct {
	store.Place
	Path string `json:"path,omitempty"` // of the file
}

func newStoreDump(out *output) *cobra.Command {
	var region, gen uint32
	var index uint64
	cmd := &cobra.Command{
		Use:   "dump REPLICA",
		Short: "Show a replica's metadata, or where a block lies",
		Long: `Show what the files of REPLICA say: manifest, journal, region table, and what
lies in the chunk files of each generation. With --table, show the block table
of one region of 4 MiB; with --block, the file and offset at which one block
of 4096 bytes lies, so that it can be looked at with other tools. Both as of
--generation.

Nothing is changed, and damage is no obstacle as long as there is something to
show.`,
		Example: `  holdfast store dump /var/lib/holdfast/pools/try/demo
  holdfast store dump /var/lib/holdfast/pools/try/demo --table 0
  holdfast store dump /var/lib/holdfast/pools/try/demo --block 1280 --generation 3 -o json`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withInspection(cmd.Context(), args[0], func(p *place, i *store.Inspection) error {
				switch {
				case cmd.Flags().Changed("block"):
					return dumpBlock(out, p, i, block.Index(index), block.Generation(gen))
				case cmd.Flags().Changed("table"):
					return dumpTable(out, p, i, block.Region(region), block.Generation(gen))
				case gen != 0:
					return fault.Errorf("arguments", fault.Invalid, "--generation goes with --block or --table")
				}
				return dumpAll(cmd, out, p, i)
			})
		},
	}
	cmd.Flags().Uint32Var(&region, "table", 0, "show the block table of this `region`, counted from 0")
	cmd.Flags().Uint64Var(&index, "block", 0, "show where this `block` lies, counted from 0")
	cmd.Flags().Uint32Var(&gen, "generation", 0, "as of this `number` (default: the live generation)")
	cmd.MarkFlagsMutuallyExclusive("table", "block")
	return cmd
}

func dumpBlock(out *output, p *place, i *store.Inspection, b block.Index, gen block.Generation) error {
	var v placeView
	err := await(p.disk, func(done func(error)) {
		i.Locate(b, gen, func(got store.Place, err error) { v.Place = got; done(err) })
	})
	if err != nil {
		return err
	}
	if v.File != "" {
		v.Path = filepath.Join(p.dir(), v.File)
	}
	return out.print(v, v.draw)
}

func (v placeView) draw(t *table) {
	t.field("block", fmt.Sprintf("%d, at offset %d of the volume", v.Block, v.Block.Offset()))
	t.field("generation", v.Generation)
	t.field("state", v.State)
	if v.Path == "" {
		t.field("reads as", "zeros; it lies nowhere")
		return
	}
	t.field("held by", fmt.Sprintf("generation %d", v.Holder))
	t.field("file", v.Path)
	t.field("offset", fmt.Sprintf("%d, which is %d blocks of %d", v.Offset, v.Offset/block.Size, block.Size))
	sum := fmt.Sprintf("crc32 %08x", uint32(v.Sum))
	if v.Suspect {
		sum += ", which may be older than the data: the replica was not closed"
	}
	t.field("checksum", sum)
}

func dumpTable(out *output, p *place, i *store.Inspection, n block.Region, gen block.Generation) error {
	var v store.TableInfo
	err := await(p.disk, func(done func(error)) {
		i.Table(n, gen, func(got store.TableInfo, err error) { v = got; done(err) })
	})
	if err != nil {
		return err
	}
	return out.print(v, func(t *table) {
		t.field("region", fmt.Sprintf("%d, at offset %d of the volume", v.Region, v.Region.Start().Offset()))
		t.field("generation", v.Generation)
		if v.Table == 0 {
			t.field("table", "none: the region was never written")
			return
		}
		t.field("table", fmt.Sprintf("of generation %d, sequence %d, with journal blocks up to %d", v.Table, v.Sequence, v.Journal))
		if v.Replayed {
			t.field("journal", "says more than the table on disk; that is included")
		}
		t.section()
		t.row("BLOCK", "COUNT", "STATE", "HELD BY", "SLOT")
		for _, run := range v.Runs {
			holder, slot := "-", "-"
			if run.Holder != 0 {
				holder = fmt.Sprint(run.Holder)
			}
			if run.State == "data" || run.State == "punched" {
				slot = fmt.Sprint(run.Slot)
			}
			t.row(run.First, run.Count, run.State, holder, slot)
		}
	})
}

func dumpAll(cmd *cobra.Command, out *output, p *place, i *store.Inspection) error {
	report, err := check(cmd, p, i)
	if err != nil {
		return err
	}
	v := dumpView{Path: p.dir(), Manifest: i.Manifest(), Journal: i.Journal(), Regions: i.Regions(), Stores: report.Stores, Damaged: report.Damaged}
	if v.Regions == nil {
		v.Regions = []store.RegionRange{}
	}
	if v.Stores == nil {
		v.Stores = []store.GenerationStore{}
	}
	return out.print(v, v.draw)
}

func (v dumpView) draw(t *table) {
	m, j := v.Manifest, v.Journal
	viewOfReplica(v.Path, m).draw(t)
	t.field("to be freed", generationsText(m.Reclaim))
	t.field("promised epoch", m.Promised)
	t.field("format version", m.Version)
	if v.Damaged > 0 {
		t.field("damage", fmt.Sprintf("%d findings; see: holdfast store check %s", v.Damaged, quoted(v.Path)))
	}
	closed := "closed"
	if !j.Clean {
		closed = "not closed: what the journal has is added when it is opened"
	}
	t.section()
	t.field("journal", closed)
	t.field("  opened", fmt.Sprintf("%d times", j.Session))
	t.field("  ring", fmt.Sprintf("%d blocks; %d to %d are needed, durable up to %d", j.Blocks, j.Tail, j.End, j.Durable))
	t.field("  records", j.Records)
	t.section()
	t.row("REGIONS", "COUNT", "EPOCH", "STATE", "NEWEST TABLE")
	for _, r := range v.Regions {
		state, newest := "clean", "-"
		switch {
		case r.Bad:
			state = "DAMAGED"
		case r.Dirty != 0:
			state = fmt.Sprintf("dirty since %d", r.Dirty)
		}
		if r.Table != 0 {
			newest = fmt.Sprint(r.Table)
		}
		t.row(r.First, r.Count, r.Epoch, state, newest)
	}
	t.section()
	t.row("GENERATION", "FILES", "ALLOCATED", "TABLES", "DATA BLOCKS")
	for _, s := range v.Stores {
		t.row(s.Generation, s.Files, bytesText(s.Allocated), s.Tables, s.Blocks)
	}
}
