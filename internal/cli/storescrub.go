package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/store"
)

// badView is one damaged block, or table, as commands print it.
type badView struct {
	What       string             `json:"what"`
	Generation block.Generation   `json:"generation"` // as of which it was read
	Block      block.Index        `json:"block"`
	Offset     int64              `json:"offset"` // bytes in the volume
	Bytes      int64              `json:"bytes"`  // that are lost with it: a block, or a region with a table
	Detail     string             `json:"detail"`
	ShownBy    []block.Generation `json:"shownBy"`    // the generations that can't be read there
	SameSumIn  []block.Generation `json:"sameSumIn"`  // generations with a good block of the checksum that is missing
	Repairable string             `json:"repairable"` // from where: "here" or "replica"
}

// scrubView is the result of a scrub, as commands print it.
type scrubView struct {
	Path        string       `json:"path"`
	Volume      string       `json:"volume"`
	BytesRead   int64        `json:"bytesRead"`
	Tables      int64        `json:"tables"`
	Seconds     float64      `json:"seconds"`
	Bad         []badView    `json:"bad"`
	More        int64        `json:"more"` // damaged, and not listed
	Resync      []extentView `json:"resync"`
	ResyncBytes int64        `json:"resyncBytes"`
}

func newStoreScrub(out *output) *cobra.Command {
	var rate quantity
	cmd := &cobra.Command{
		Use:   "scrub REPLICA",
		Short: "Read all data and compare it with its checksums",
		Long: `Read every block of every generation of REPLICA from the disk, each once, and
compare it with its checksum, at most --rate bytes a second. The exit status
is 6 if something is damaged.

The report says for each damaged block which generations show it, whether
another generation holds the same content, by checksum, and which parts of the
volume are to be resynced from another replica. Nothing is repaired: in the
live generation, writing the right content over a damaged block heals it.`,
		Example: `  holdfast store scrub /var/lib/holdfast/pools/try/demo
  holdfast store scrub /var/lib/holdfast/pools/try/demo --rate 100Mi -o json`,
		Args: exactly("REPLICA"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("rate") && rate < 1 {
				return fmt.Errorf("--rate: want at least 1 byte a second")
			}
			v := scrubView{Bad: []badView{}, Resync: []extentView{}}
			err := withReplica(cmd.Context(), args[0], func(s *session) error {
				v.Path, v.Volume = s.dir(), s.r.Manifest().Volume.String()
				return s.scrub(cmd, int64(rate), &v)
			})
			if err != nil {
				return err
			}
			if err := out.print(v, v.draw); err != nil || len(v.Bad) == 0 {
				return err
			}
			return fault.WithCure(fault.Errorf("scrub", fault.Corrupt, "the replica at %s has %d damaged blocks or tables", v.Path, int64(len(v.Bad))+v.More),
				"restore what is listed under resync from another replica or a backup")
		},
	}
	cmd.Flags().Var(&rate, "rate", "how much to read in a second, such as 100Mi (default: no limit)")
	return cmd
}

// pacer answers a scrub's steps so that it keeps to a rate.
type pacer struct {
	rate   int64 // bytes a second; 0 for no limit
	now    func() time.Duration
	began  time.Duration
	bytes  int64
	resume func(goOn bool) // of the step that waits; nil for none
}

// step is what the scrub calls after each step.
func (p *pacer) step(bytes int, resume func(bool)) {
	p.bytes += int64(bytes)
	p.resume = resume
}

// wait returns how long the step that waits must still wait.
func (p *pacer) wait() time.Duration {
	if p.rate == 0 {
		return 0
	}
	due := p.began + time.Duration(float64(p.bytes)/float64(p.rate)*float64(time.Second))
	return max(0, due-p.now())
}

// answer lets the step that waits go on, or end the scrub.
func (p *pacer) answer(goOn bool) {
	resume := p.resume
	p.resume = nil
	resume(goOn)
}

// pollMax is how long an interrupt may go unnoticed while a scrub waits.
const pollMax = 100 * time.Millisecond

func (s *session) scrub(cmd *cobra.Command, rate int64, v *scrubView) error {
	line := newProgress(cmd, "read", s.stored(cmd))
	defer line.end()
	clock := host.RealClock{}
	p := &pacer{rate: rate, now: clock.Now, began: clock.Now()}
	report, err := s.runScrub(cmd.Context(), p, line)
	if err != nil {
		return err
	}
	v.BytesRead, v.Tables, v.More, v.Seconds = p.bytes, report.Tables, report.More, (clock.Now() - p.began).Seconds()
	for _, bad := range report.Bad {
		v.Bad = append(v.Bad, s.diagnose(bad))
	}
	v.sumUp()
	return nil
}

// stored returns how many bytes a scrub will read, for a terminal; 0 is not known.
func (s *session) stored(cmd *cobra.Command) (bytes int64) {
	if isTerminal(cmd.ErrOrStderr()) {
		_ = await(s.disk, func(done func(error)) { // what is damaged is for the scrub to find
			s.r.Usage(func(u store.Usage, err error) { bytes = u.Stored; done(err) })
		})
	}
	return bytes
}

// runScrub drives a scrub at its pace until it is done or ctx is.
func (s *session) runScrub(ctx context.Context, p *pacer, line *progress) (report store.ScrubReport, err error) {
	finished := false
	s.r.Scrub(p.step, func(got store.ScrubReport, e error) { finished, report, err = true, got, e })
	for !finished {
		switch {
		case p.resume == nil:
			if err := poll(s.disk, -1); err != nil && p.resume == nil && !finished {
				return report, err
			}
		case ctx.Err() != nil:
			p.answer(false)
			err = interrupted()
		case p.wait() > 0:
			s.disk.Poll(min(p.wait(), pollMax))
		default:
			line.show(p.bytes)
			p.answer(true)
		}
	}
	if ctx.Err() != nil {
		err = interrupted()
	}
	return report, err
}

// diagnose finds out whom a damaged block concerns, and where its content may still be.
func (s *session) diagnose(bad *store.BadBlock) badView {
	v := badView{What: bad.What, Generation: bad.Generation, Block: bad.Block, Offset: bad.Block.Offset(), Bytes: block.Size,
		Detail: bad.Detail, ShownBy: []block.Generation{}, SameSumIn: []block.Generation{}, Repairable: "replica"}
	at := block.Extent{Start: bad.Block, Count: 1}
	want, err := s.sum(at, bad.Generation)
	if err != nil { // its table is damaged: the whole region can't be read
		v.Bytes = min(block.RegionSize, s.r.Manifest().Size-v.Offset)
		v.ShownBy = append(v.ShownBy, bad.Generation)
		return v
	}
	m := s.r.Manifest()
	for _, g := range append(m.Snapshots, m.Generation) {
		if sum, err := s.sum(at, g); err != nil || sum != want {
			continue
		}
		q := &store.Request{Verb: store.Read, Extent: at, Generation: g, Data: host.Buffer(block.Size), Sums: make([]block.Sum, 1)}
		if s.do(q) == nil {
			v.SameSumIn = append(v.SameSumIn, g)
			v.Repairable = "here"
		} else {
			v.ShownBy = append(v.ShownBy, g)
		}
	}
	return v
}

// sum returns the checksum that the table has for a block.
func (s *session) sum(at block.Extent, gen block.Generation) (block.Sum, error) {
	q := &store.Request{Verb: store.Verify, Extent: at, Generation: gen, Sums: make([]block.Sum, 1)}
	err := s.do(q)
	return q.Sums[0], err
}

// sumUp lists what is to be resynced: the bytes of all that is damaged, each once.
func (v *scrubView) sumUp() {
	var all []extentView
	for _, b := range v.Bad {
		all = append(all, extentView{b.Offset, b.Bytes})
	}
	slices.SortFunc(all, func(a, b extentView) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, e := range all {
		n := len(v.Resync)
		if n == 0 || v.Resync[n-1].Offset+v.Resync[n-1].Bytes < e.Offset {
			v.Resync = append(v.Resync, e)
			continue
		}
		last := &v.Resync[n-1]
		last.Bytes = max(last.Bytes, e.Offset+e.Bytes-last.Offset)
	}
	for _, e := range v.Resync {
		v.ResyncBytes += e.Bytes
	}
}

func (v scrubView) draw(t *table) {
	t.field("path", v.Path)
	t.field("volume", v.Volume)
	t.field("read", fmt.Sprintf("%s of data and %d block tables in %.1f s", bytesText(v.BytesRead), v.Tables, v.Seconds))
	if len(v.Bad) == 0 {
		t.field("result", "everything is as it was written")
		return
	}
	t.field("result", fmt.Sprintf("%d damaged", int64(len(v.Bad))+v.More))
	for _, b := range v.Bad {
		t.section()
		t.field("DAMAGED "+b.What, fmt.Sprintf("block %d of generation %d", b.Block, b.Generation))
		t.field("  bytes", fmt.Sprintf("%d at offset %d", b.Bytes, b.Offset))
		t.field("  what", b.Detail)
		t.field("  shown by", "generation "+generationsText(b.ShownBy))
		t.field("  repair", b.repair())
	}
	t.section()
	if v.More > 0 {
		t.row(fmt.Sprintf("and %d more", v.More))
	}
	t.field("to be resynced from another replica", fmt.Sprintf("%s in %d extents", bytesText(v.ResyncBytes), len(v.Resync)))
	for _, e := range v.Resync {
		t.field("  bytes", fmt.Sprintf("%d at offset %d", e.Bytes, e.Offset))
	}
}

func (b badView) repair() string {
	if len(b.SameSumIn) > 0 {
		return "generation " + generationsText(b.SameSumIn) + " has a good block with the same checksum"
	}
	return "no other generation has the same content: it takes another replica, or a backup"
}
