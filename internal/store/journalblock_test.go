package store

import (
	"encoding/binary"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

func TestShortSumIsTheChecksum(t *testing.T) {
	volume := block.VolumeID{7, 250, 3}
	c := newShortSum()
	c.add(volume[:]...)
	c.add32(0x80402010)
	if got, want := c.sum(), block.MetaSum(binary.LittleEndian.AppendUint32(volume[:], 0x80402010)); got != want {
		t.Errorf("%08x, want %08x", got, want)
	}
}

func TestRecordsAreSummedWithoutAllocation(t *testing.T) {
	sums, b := []block.Sum{1, 2, 3}, make([]byte, block.Size)
	got := testing.AllocsPerRun(100, func() {
		sumOfSums(sums)
		journalSum(b, testVolume)
		recordSum(b, 9)
	})
	if got != 0 {
		t.Errorf("%v allocations", got)
	}
}
