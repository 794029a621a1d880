package sim

import (
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
)

// snapshot is what may be in one: for each block the writes from lower on, as far as the
// history went when it was taken, and all of one moment.
type snapshot struct {
	losses int
	lower  []int          // position of the last completed write of each block
	base   []int          // of the first of tags
	tags   [][]uint64     // of each block, up to when it was taken
	begun  map[uint64]int // when a write was submitted since
	acks   []ack
}

// ack is a write that was completed while the snapshot was being taken.
type ack struct{ when, block, at int }

func (m *model) beginSnapshot(losses int) *snapshot {
	x := &snapshot{losses: losses, lower: m.ackedNow(0, len(m.blocks)), begun: make(map[uint64]int)}
	for _, h := range m.blocks {
		x.base = append(x.base, h.gone)
		x.tags = append(x.tags, slices.Clone(h.tags))
	}
	m.taking = append(m.taking, x)
	return x
}

// endSnapshot notes whether it was taken, and as which generation.
func (m *model) endSnapshot(x *snapshot, g block.Generation, ok bool, losses int) {
	m.taking = slices.DeleteFunc(m.taking, func(y *snapshot) bool { return x == y })
	switch {
	case !ok:
		return
	case losses == x.losses:
		m.flushed(x.lower)
	default: // what was complete may be gone
		x.acks, x.lower = nil, x.base
	}
	m.snapshots[g] = x
}

// check compares what a replica shows of the snapshot with what may be there. Blocks that
// are torn are left out when somebody died: nobody was promised them.
func (x *snapshot) check(data []byte, died bool) error {
	at := make([]int, len(x.tags))
	moment := 0
	for b := range x.tags {
		tag, err := tagOf(data[b*block.Size : (b+1)*block.Size])
		if err != nil {
			if !died {
				return fmt.Errorf("block %d: %w", b, err)
			}
			at[b] = -1
			continue
		}
		at[b] = -1
		for i, t := range x.tags[b] {
			if t == tag {
				at[b] = x.base[b] + i
			}
		}
		if at[b] < x.lower[b] {
			return fmt.Errorf("block %d is write %d, may be one of %v from %d on", b, tag, x.tags[b], x.lower[b]-x.base[b])
		}
		if tag != 0 {
			moment = max(moment, x.begun[tag])
		}
	}
	for _, a := range x.acks {
		if a.block < len(at) && a.when < moment && at[a.block] >= 0 && at[a.block] < a.at {
			return fmt.Errorf("block %d is of an earlier moment than others: it lacks what was complete", a.block)
		}
	}
	return nil
}

// grow makes the model's volume larger.
func (m *model) grow(blocks int) {
	for len(m.blocks) < blocks {
		m.blocks = append(m.blocks, history{tags: []uint64{0}})
	}
}
