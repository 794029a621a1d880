package store

import (
	"encoding/binary"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/host"
)

// A resync copies blocks by their sums, and as holes those with the sum of a hole. One block
// in 2^32 has that sum by chance, and holds data.
func TestVerifyTellsDataFromAHoleWhateverItsSum(t *testing.T) {
	data := host.Buffer(block.Size)
	copy(data, "not zeros")
	forge(data, block.ZeroSum)
	g := newRig(t, sim(1), 1<<30, Options{})
	g.must(g.do(&Request{Verb: Write, Extent: block.Extent{Start: 7, Count: 1}, Data: data, Sums: []block.Sum{block.Checksum(data)}}))
	v := &Request{Verb: Verify, Extent: block.Extent{Start: 6, Count: 3}, Sums: make([]block.Sum, 3)}
	g.must(g.do(v))
	if v.Sums[0] != block.ZeroSum || v.Sums[1] == block.ZeroSum || v.Sums[2] != block.ZeroSum {
		t.Errorf("a hole, data with the sum of a hole, and a hole are told as %08x", v.Sums)
	}
	r := readOf(0, 7, 1)
	g.must(g.do(r))
	if string(r.Data) != string(data) || r.Sums[0] != block.ZeroSum {
		t.Errorf("the data is not what was written, or has the sum %08x", r.Sums[0])
	}
}

// forge sets the last four bytes of data so that its sum is want. Sums are linear: each bit
// changes the sum in a way of its own.
func forge(data []byte, want block.Sum) {
	end := data[len(data)-4:]
	sum := func(bits uint32) uint32 {
		binary.LittleEndian.PutUint32(end, bits)
		return uint32(block.Checksum(data))
	}
	none := sum(0)
	var basis [32]struct{ effect, bits uint32 } // by the highest bit of effect
	for i := range 32 {
		effect, bits := sum(1<<i)^none, uint32(1)<<i
		for k := 31; k >= 0 && effect != 0; k-- {
			switch {
			case effect>>k&1 == 0:
			case basis[k].effect == 0:
				basis[k].effect, basis[k].bits = effect, bits
				effect = 0
			default:
				effect, bits = effect^basis[k].effect, bits^basis[k].bits
			}
		}
	}
	left, bits := uint32(want)^none, uint32(0)
	for k := 31; k >= 0; k-- {
		if left>>k&1 != 0 {
			left, bits = left^basis[k].effect, bits^basis[k].bits
		}
	}
	sum(bits)
}
