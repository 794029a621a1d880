package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/store"
)

// findingView is one thing that a check found, as commands print it.
type findingView struct {
	Damage     bool             `json:"damage"` // or only worth knowing
	What       string           `json:"what"`
	File       string           `json:"file"`
	Generation block.Generation `json:"generation,omitempty"`
	Extent     *extentView      `json:"extent,omitempty"`
	Detail     string           `json:"detail"`
	Cure       string           `json:"cure"`
}

// checkView is the result of a check, as commands print it.
type checkView struct {
	Path          string        `json:"path"`
	Volume        string        `json:"volume"`
	Regions       int64         `json:"regions"`
	JournalBlocks int64         `json:"journalBlocks"`
	Files         int64         `json:"files"`
	Tables        int64         `json:"tables"`
	Damaged       int64         `json:"damaged"`
	Findings      []findingView `json:"findings"`
	More          int64         `json:"more"` // findings that are not listed
}

func viewOfCheck(dir string, m store.Manifest, c store.CheckReport) checkView {
	v := checkView{Path: dir, Volume: m.Volume.String(), Regions: c.Regions, JournalBlocks: c.JournalBlocks,
		Files: c.Files, Tables: c.Tables, Damaged: c.Damaged, Findings: []findingView{}, More: c.More}
	for _, f := range c.Findings {
		x := findingView{Damage: f.Damage, What: f.What, File: f.File, Generation: f.Generation, Detail: f.Detail, Cure: f.Cure}
		if !f.Extent.Empty() {
			e := viewOfExtent(f.Extent)
			x.Extent = &e
		}
		v.Findings = append(v.Findings, x)
	}
	return v
}

func (v checkView) draw(t *table) {
	t.field("path", v.Path)
	t.field("volume", v.Volume)
	t.field("checked", fmt.Sprintf("%d region records, %d journal blocks, %d chunk files, %d block tables",
		v.Regions, v.JournalBlocks, v.Files, v.Tables))
	result := "nothing is wrong"
	if n := int64(len(v.Findings)) + v.More; n > 0 {
		result = fmt.Sprintf("%d findings, %d of them damage", n, v.Damaged)
	}
	t.field("result", result)
	for _, f := range v.Findings {
		t.section()
		kind := "note"
		if f.Damage {
			kind = "DAMAGE"
		}
		t.row(kind+":", f.What+" "+f.File)
		if f.Generation != 0 {
			t.field("  generation", f.Generation)
		}
		if f.Extent != nil {
			t.field("  bytes", fmt.Sprintf("%d at offset %d", f.Extent.Bytes, f.Extent.Offset))
		}
		t.field("  what", f.Detail)
		t.field("  cure", f.Cure)
	}
	if v.More > 0 {
		t.section()
		t.row(fmt.Sprintf("and %d more", v.More))
	}
}

func newStoreCheck(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "check REPLICA",
		Short: "Check a replica's metadata, without changing anything",
		Long: `Compare everything that the files of REPLICA say of each other: manifest,
region table, journal, every block table, every chunk file and the places in
it. Data is not read: holdfast store scrub does that. Nothing is changed, and
what a crash left for the next opening to settle is no damage.

Every finding comes with what to do. The exit status is 6 if something is
damaged.`,
		Example: `  holdfast store check /var/lib/holdfast/pools/try/demo
  holdfast store check /var/lib/holdfast/pools/try/demo -o json`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v checkView
			err := withInspection(cmd.Context(), args[0], func(p *place, i *store.Inspection) error {
				c, err := check(cmd, p, i)
				v = viewOfCheck(p.dir(), i.Manifest(), c)
				return err
			})
			if err != nil {
				return err
			}
			if err := out.print(v, v.draw); err != nil || v.Damaged == 0 {
				return err
			}
			return fault.WithCure(fault.Errorf("check", fault.Corrupt, "the replica at %s is damaged", v.Path),
				"do what the report says, and run: holdfast store scrub "+quoted(v.Path))
		},
	}
}

// check runs a check, with progress in chunks of 64 MiB.
func check(cmd *cobra.Command, p *place, i *store.Inspection) (report store.CheckReport, err error) {
	line := newProgress(cmd, "checked", 0)
	defer line.end()
	step := func(chunks, of int) bool {
		line.total = int64(of) * block.ChunkSize
		line.show(int64(chunks) * block.ChunkSize)
		return cmd.Context().Err() == nil
	}
	err = await(p.disk, func(done func(error)) {
		i.Check(step, func(c store.CheckReport, err error) { report = c; done(err) })
	})
	if fault.Is(err, fault.Canceled) {
		err = interrupted()
	}
	return report, err
}
