package store

import (
	"maps"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
)

// version is one content of a block: what a write or zeroing put there.
type version struct {
	tag   uint64 // see pattern; 0 is zeros
	stamp uint64 // orders writes and zeroings as they were submitted
}

// model is what a replica must hold.
//
// A block's history is what was written to it since it was last known to be durable: the
// first version is durable, the last one is what a read shows.
type model struct {
	at        []block.Index // the blocks that are looked at, ascending; nothing else is written
	size      int64
	gen       block.Generation
	promised  block.Epoch
	stamped   block.Epoch // dirty regions have this epoch or a later one
	history   [][]version
	acked     []int                           // how many of a block's versions are acknowledged
	gone      []int                           // how many were dropped from its history as durable
	busy      []int                           // requests in flight that touch it
	doubt     map[int]bool                    // blocks of whose state more than the content is not known
	snapshots map[block.Generation][][]uint64 // what each block may show
	deleted   []block.Generation
	regions   map[block.Region]regionModel
	epochs    map[uint64]block.Epoch // by tag
	stamp     uint64                 // the last one given
	open      map[uint64]bool        // stamps of writes that are not acknowledged
	acks      uint64                 // counts acknowledgements
	maybe     maybe
}

// regionModel is what must be known of a region: whether it was written since it was last
// allowed to become clean, and by which epoch.
type regionModel struct {
	written uint64      // number of the last acknowledgement of a write
	clean   uint64      // acknowledgements up to this one may be forgotten
	epoch   block.Epoch // of the last such write
}

// maybe is what control operations in flight will have done, or not, when the process
// dies. Zero values are none.
type maybe struct {
	snapshot block.Generation
	shown    [][]uint64 // what that may show if it is there
	delete   block.Generation
	size     int64
	promise  block.Epoch
}

func newModel(size int64, at []block.Index) *model {
	m := &model{at: at, size: size, gen: 1, history: make([][]version, len(at)), acked: make([]int, len(at)),
		gone: make([]int, len(at)), busy: make([]int, len(at)), snapshots: map[block.Generation][][]uint64{}, doubt: map[int]bool{},
		regions: map[block.Region]regionModel{}, epochs: map[uint64]block.Epoch{}, open: map[uint64]bool{}}
	for i := range m.history {
		m.history[i], m.acked[i] = []version{{}}, 1
	}
	return m
}

// allOf lists the blocks of a volume of size bytes.
func allOf(size int64) []block.Index {
	at := make([]block.Index, size/block.Size)
	for i := range at {
		at[i] = block.Index(i)
	}
	return at
}

// clone returns a copy that goes its own way.
func (m *model) clone() *model {
	c := *m
	c.history = slices.Clone(m.history)
	for i := range c.history {
		c.history[i] = slices.Clone(c.history[i])
	}
	c.acked, c.gone, c.busy = slices.Clone(m.acked), slices.Clone(m.gone), slices.Clone(m.busy)
	c.snapshots, c.regions, c.epochs = maps.Clone(m.snapshots), maps.Clone(m.regions), maps.Clone(m.epochs)
	c.open = maps.Clone(m.open)
	c.deleted, c.doubt = slices.Clone(m.deleted), maps.Clone(m.doubt)
	return &c
}

// in returns the places in at of the blocks of e.
func (m *model) in(e block.Extent) (from, to int) {
	from, _ = slices.BinarySearch(m.at, e.Start)
	to, _ = slices.BinarySearch(m.at, e.End())
	return from, to
}

// free reports whether no request in flight touches e.
func (m *model) free(e block.Extent) bool {
	from, to := m.in(e)
	return !slices.ContainsFunc(m.busy[from:to], func(n int) bool { return n > 0 })
}

func (m *model) hold(e block.Extent, by int) {
	from, to := m.in(e)
	for i := from; i < to; i++ {
		m.busy[i] += by
	}
}

// newTag returns the content of the next write.
func (m *model) newTag() uint64 {
	tag := m.stamp + 1
	m.epochs[tag] = m.promised
	return tag
}

// begin notes that e is being written with tag, or zeroed when tag is 0.
func (m *model) begin(e block.Extent, tag uint64) {
	m.stamp++
	from, to := m.in(e)
	for i := from; i < to; i++ {
		m.history[i] = append(m.history[i], version{tag, m.stamp})
	}
	m.open[m.stamp] = true
	m.hold(e, +1)
}

// end notes that the last write or zeroing of e was acknowledged.
func (m *model) end(e block.Extent) {
	m.hold(e, -1)
	m.acks++
	from, to := m.in(e)
	for i := from; i < to; i++ {
		h := m.history[i]
		m.acked[i] = len(h)
		delete(m.doubt, i)
		last := h[len(h)-1]
		delete(m.open, last.stamp)
		if last.tag == 0 && h[len(h)-2].tag == 0 {
			continue // zeroing what has no data is nothing
		}
		m.wrote(m.at[i].Region(), m.promised)
	}
}

// wrote notes that a write to region n by epoch, or a later one, was acknowledged.
func (m *model) wrote(n block.Region, epoch block.Epoch) {
	r := m.regions[n]
	r.written, r.epoch = m.acks, max(r.epoch, epoch)
	m.regions[n] = r
}

// countSeen counts the writes that were not acknowledged and are seen in some blocks.
func (m *model) countSeen(from, to int) {
	for i := from; i < to; i++ {
		h := m.history[i]
		if v := h[len(h)-1]; m.open[v.stamp] && v.tag != 0 {
			m.acks++
			m.wrote(m.at[i].Region(), m.epochs[v.tag])
		}
	}
}

// failed notes that the last write or zeroing of e failed: any part of it may be there,
// any other not, from now on for ever.
func (m *model) failed(e block.Extent) {
	m.hold(e, -1)
	from, to := m.in(e)
	for i := from; i < to; i++ {
		h := m.history[i]
		m.history[i] = append(h, h[m.acked[i]-1])
	}
}

// shown lists what a read of the i-th block may show when nothing that touches it is in
// flight.
func (m *model) shown(i int) []version { return m.history[i][m.acked[i]-1:] }

// coverage is what a flush that begins now makes durable: versions of each block, counted
// from the beginning, because flushes may overlap.
func (m *model) coverage() []int {
	c := slices.Clone(m.acked)
	for i := range c {
		c[i] += m.gone[i]
	}
	return c
}

// flushed notes that what coverage returned is durable.
func (m *model) flushed(coverage []int) {
	for i, n := range coverage {
		drop := max(0, n-m.gone[i]-1)
		m.history[i] = m.history[i][drop:]
		m.acked[i] -= drop
		m.gone[i] += drop
	}
}

// view returns what each block may show in a snapshot that is asked for now: of requests
// in flight it shows what they do, or not.
func (m *model) view() [][]uint64 {
	v := make([][]uint64, len(m.at))
	for i := range v {
		for _, x := range m.shown(i) {
			if !slices.Contains(v[i], x.tag) {
				v[i] = append(v[i], x.tag)
			}
		}
	}
	return v
}

// snapshot notes that the live generation became a snapshot that shows what view
// returned when it was asked for.
func (m *model) snapshot(shown [][]uint64) {
	m.snapshots[m.gen] = shown
	m.gen++
}

func (m *model) delete(gen block.Generation) {
	delete(m.snapshots, gen)
	m.deleted = append(m.deleted, gen)
}

func (m *model) generations() []block.Generation { return slices.Sorted(maps.Keys(m.snapshots)) }

// mayClean notes that every region may be marked clean of the writes that were
// acknowledged when the count of acknowledgements was acks.
func (m *model) mayClean(acks uint64) {
	for n, r := range m.regions {
		r.clean = max(r.clean, acks)
		m.regions[n] = r
	}
}

// death is how a replica's process ended.
type death int

const (
	closed death = iota // it was closed
	killed              // the process died, the machine did not
	power               // the machine lost power
)

func (d death) String() string { return [...]string{"close", "kill", "power loss"}[d] }

// survivors lists what the i-th block may hold after a death.
func (m *model) survivors(i int, d death) []version {
	switch d {
	case closed, killed: // with a close all is done, but a block may be torn since earlier
		return m.shown(i)
	}
	return m.history[i]
}

// settle makes what was seen after a restart the truth. Power loss leaves nothing that
// is not durable; after a kill another death may still bring any version back.
func (m *model) settle(i int, seen version, d death) {
	if d == killed {
		m.history[i] = append(m.history[i], seen)
	} else {
		m.gone[i] += len(m.history[i]) - 1
		m.history[i] = []version{seen}
	}
	m.acked[i] = len(m.history[i])
}

// settleControl makes what control operations in flight have done, or not, the truth.
// It reports whether the manifest is one of those that are possible.
func (m *model) settleControl(man Manifest) bool {
	x := m.maybe
	m.maybe = maybe{}
	if x.snapshot != 0 && slices.Contains(man.Snapshots, x.snapshot) {
		m.snapshot(x.shown)
	}
	if x.delete != 0 && !slices.Contains(man.Snapshots, x.delete) {
		m.delete(x.delete)
	}
	if man.Size == x.size {
		m.size = x.size
	}
	if man.Promised == x.promise {
		m.promised = x.promise
	}
	return m.gen == man.Generation && slices.Equal(m.generations(), man.Snapshots) &&
		m.size == man.Size && m.promised == man.Promised
}
