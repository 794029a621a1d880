package sim

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// model is what the volume's user may rely on. A block's history is what was written to
// it, in order of submission; positions count from the volume's beginning.
type model struct {
	blocks []history
	tag    uint64

	clock     int // counts submissions and completions
	taking    []*snapshot
	snapshots map[block.Generation]*snapshot
}

type history struct {
	gone  int      // positions before the first one kept
	tags  []uint64 // kept: the first is durable
	acked int      // position of the last completed write
}

func newModel(blocks int) *model {
	m := &model{blocks: make([]history, blocks), snapshots: make(map[block.Generation]*snapshot)}
	for i := range m.blocks {
		m.blocks[i].tags = []uint64{0}
	}
	return m
}

func (h *history) end() int { return h.gone + len(h.tags) }

// begin notes a write that was submitted, and returns its position in each block.
func (m *model) begin(b, n int, tag uint64) []int {
	at := make([]int, n)
	m.clock++
	for _, x := range m.taking {
		if _, old := x.begun[tag]; !old {
			x.begun[tag] = m.clock
		}
	}
	for i := range n {
		h := &m.blocks[b+i]
		at[i] = h.end()
		for _, x := range m.taking {
			if b+i < len(x.tags) {
				x.tags[b+i] = append(x.tags[b+i], tag)
			}
		}
		h.tags = append(h.tags, tag)
	}
	return at
}

// beginAgain is begin for a block that is to be what it was before: when that was first, a
// snapshot can't tell.
func (m *model) beginAgain(b int, tag uint64) []int {
	at := m.begin(b, 1, tag)
	for _, x := range m.taking {
		x.begun[tag] = 0
	}
	return at
}

// ack notes that a write is complete. A younger one, of a head that took over, may have
// been complete before.
func (m *model) ack(b int, at []int) {
	m.clock++
	for i, p := range at {
		for _, x := range m.taking {
			x.acks = append(x.acks, ack{m.clock, b + i, p})
		}
		h := &m.blocks[b+i]
		h.acked = max(h.acked, p)
	}
}

// ackedNow returns the position of the last completed write of each block.
func (m *model) ackedNow(b, n int) []int {
	at := make([]int, n)
	for i := range n {
		at[i] = m.blocks[b+i].acked
	}
	return at
}

// flushed notes that what was completed by then is durable.
func (m *model) flushed(at []int) {
	for i, p := range at {
		h := &m.blocks[i]
		if drop := p - h.gone; drop > 0 {
			h.tags = h.tags[drop:]
			h.gone += drop
		}
	}
}

// durable notes that a completed write can't be lost.
func (m *model) durable(b int, at []int) {
	for i, p := range at {
		h := &m.blocks[b+i]
		if drop := p - h.gone; drop > 0 {
			h.tags = h.tags[drop:]
			h.gone += drop
		}
	}
}

// powerLost forgets that unflushed writes were completed: from now on any of them may be
// what is there.
func (m *model) powerLost() {
	for i := range m.blocks {
		m.blocks[i].acked = m.blocks[i].gone
	}
}

// seen checks what a read showed of block b, when from was the position of the last
// completed write as the read began, and makes it the truth: what was shown stays.
func (m *model) seen(b, from int, tag uint64) error {
	at, err := m.find(b, from, tag)
	if err == nil {
		m.blocks[b].acked = max(m.blocks[b].acked, at)
	}
	return err
}

// glimpsed checks what a read showed of block b while what was not flushed was lost. It
// may have been read before, and be gone by now.
func (m *model) glimpsed(b int, tag uint64) error {
	_, err := m.find(b, 0, tag)
	return err
}

// find returns the position of a write that block b may show, from a position on.
func (m *model) find(b, from int, tag uint64) (int, error) {
	h := &m.blocks[b]
	from = max(from, h.gone)
	at := slices.Index(h.tags[from-h.gone:], tag)
	if at < 0 {
		return 0, fmt.Errorf("block %d shows write %d; since the read began it was one of %v (all: %v)", b, tag, h.tags[from-h.gone:], h.tags)
	}
	return from + at, nil
}

func pattern(count int, tag uint64) ([]byte, []block.Sum) {
	data := host.Buffer(count * block.Size)
	for i := 0; i < len(data); i += 8 {
		binary.LittleEndian.PutUint64(data[i:], tag)
	}
	sums := make([]block.Sum, count)
	block.Checksums(sums, data)
	return data, sums
}

// tagOf returns the write that a block names.
func tagOf(b []byte) (uint64, error) {
	tag := binary.LittleEndian.Uint64(b)
	for i := 8; i < len(b); i += 8 {
		if x := binary.LittleEndian.Uint64(b[i:]); x != tag {
			return 0, fmt.Errorf("write %d at byte %d, write %d at the start", x, i, tag)
		}
	}
	return tag, nil
}
