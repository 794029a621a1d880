package store

import (
	"encoding/binary"
	"fmt"

	"github.com/holdfast-io/holdfast/internal/block"
)

// The table of a region, on disk:
//
//	0    magic u32, version u16, region in chunk u16, chunk u32, generation u32
//	16   volume, 16 bytes
//	32   sequence u32: rises with every copy written; the highest is the newest
//	36   checksum u32 of the whole table with this field zero
//	40   journal u64: the mappings of journal blocks up to this number are in here
//	64   sums, 1024 × u32
//	4160 holders, 1024 × u32
//	8256 slots, 1024 × u16: state in the upper two bits, slot in the lower fourteen
//	     states: 0 absent, 1 zeroed, 2 data, 3 punched (zeroed, keeps its slot)
//	     zeroed with slot 16383: lost, see lostEntry
const (
	tableMagic   = 0x42545048 // "HPTB"
	tableVersion = 1
	tableSize    = 12 << 10
	tableSums    = 64
	tableHolders = tableSums + block.PerRegion*4
	tableSlots   = tableHolders + block.PerRegion*4
	tablesBytes  = block.RegionsPerChunk * 2 * tableSize

	chunkFileSize = tablesBytes + block.ChunkSize
)

func slotOffset(slot uint16) int64 { return tablesBytes + int64(slot)*block.Size }

func tableOffset(region block.Region, copy uint32) int64 {
	return int64(region.InChunk()*2+int(copy)) * tableSize
}

type state uint16

const (
	absent  state = iota // never written: zeros
	zeroed               // zeros since the holder's generation, no slot in its file
	data                 // in the holder's file, at the slot
	punched              // zeros since the holder's generation; keeps its slot there
)

const slotMask = 1<<14 - 1

// entry is what a table says of one block.
type entry struct {
	state  state
	slot   uint16
	holder block.Generation
	sum    block.Sum
}

// table is the block table of one region as of one generation, in memory.
type table struct {
	region block.Region
	gen    block.Generation // the chunk file that this table is part of
	seq    uint32           // sequence of the newest copy on disk, 0 when there is none

	sums    [block.PerRegion]block.Sum
	holders [block.PerRegion]block.Generation
	slots   [block.PerRegion]uint16

	// What follows is about the table in memory.

	dirty    bool   // differs from the newest copy on disk
	torn     bool   // the other copy is a torn write
	doubtful bool   // what was read may not be on the disk: see Replica.unsure
	covered  uint64 // the newest copy on disk includes journal blocks up to this one
	saving   uint64 // what covered will be when the copy that is being written is there
	first    uint64 // first journal block with a mapping that no copy on disk has; 0 none
	last     uint64 // last such block
	pins     int    // requests that use the table now
	mapping  int    // first writes in flight, whose mapping is not in the table yet
	hold     bool   // being saved: first writes wait
	waiters  reqList
	unproven [block.PerRegion / 64]uint64 // blocks whose journal record is not proven
	used     uint64                       // for least-recently-used eviction
	index    int                          // place in the cache's list
}

func (t *table) at(i int) entry {
	return entry{state: state(t.slots[i] >> 14), slot: t.slots[i] & slotMask, holder: t.holders[i], sum: t.sums[i]}
}

func (t *table) set(i int, e entry) {
	t.slots[i] = uint16(e.state)<<14 | e.slot&slotMask
	t.holders[i] = e.holder
	t.sums[i] = e.sum
}

// lostEntry says that what the block held as of generation holder is not known any more:
// reading it is an error until it is written or zeroed.
func lostEntry(holder block.Generation) entry {
	return entry{state: zeroed, slot: slotMask, holder: holder}
}

func (t *table) isLost(i int) bool { return t.slots[i] == uint16(zeroed)<<14|slotMask }

// holdsNothing reports whether block i reads as zeros.
func (t *table) holdsNothing(i int) bool { return state(t.slots[i]>>14) != data && !t.isLost(i) }

func (t *table) isUnproven(i int) bool { return t.unproven[i/64]>>(i%64)&1 != 0 }
func (t *table) setUnproven(i int)     { t.unproven[i/64] |= 1 << (i % 64) }
func (t *table) clearUnproven(i, n int) {
	for ; n > 0; i, n = i+1, n-1 {
		t.unproven[i/64] &^= 1 << (i % 64)
	}
}

// succeed fills t with what a new generation inherits from prev.
func (t *table) succeed(prev *table, gen block.Generation) {
	t.reset(prev.region, gen)
	t.sums, t.holders, t.slots = prev.sums, prev.holders, prev.slots
}

func (t *table) reset(region block.Region, gen block.Generation) {
	*t = table{region: region, gen: gen}
}

// encode writes the table to b, tableSize bytes, as the copy with sequence seq.
func (t *table) encode(b []byte, volume block.VolumeID, seq uint32, journal uint64) {
	clear(b[:tableSums])
	le := binary.LittleEndian
	le.PutUint32(b[0:], tableMagic)
	le.PutUint16(b[4:], tableVersion)
	le.PutUint16(b[6:], uint16(t.region.InChunk()))
	le.PutUint32(b[8:], uint32(t.region.Chunk()))
	le.PutUint32(b[12:], uint32(t.gen))
	copy(b[16:32], volume[:])
	le.PutUint32(b[32:], seq)
	le.PutUint64(b[40:], journal)
	for i, s := range t.sums {
		le.PutUint32(b[tableSums+4*i:], uint32(s))
	}
	for i, h := range t.holders {
		le.PutUint32(b[tableHolders+4*i:], uint32(h))
	}
	for i, s := range t.slots {
		le.PutUint16(b[tableSlots+2*i:], s)
	}
	clear(b[tableSlots+2*block.PerRegion : tableSize])
	le.PutUint32(b[36:], block.MetaSum(b[:tableSize]))
}

// tableHead is what a copy of a table says of itself.
type tableHead struct {
	seq     uint32
	journal uint64
}

// decodeTable fills t from a copy on disk. present is false, without error, for a copy
// that was never written. t must be reset to the region and generation that are
// expected; owns tells whether a volume's tables may be found here.
func decodeTable(t *table, b []byte, owns func(block.VolumeID) bool) (head tableHead, present bool, err error) {
	le := binary.LittleEndian
	if le.Uint32(b) == 0 && allZero(b) {
		return head, false, nil
	}
	sum := le.Uint32(b[36:])
	le.PutUint32(b[36:], 0)
	got := block.MetaSum(b[:tableSize])
	le.PutUint32(b[36:], sum)
	switch {
	case got != sum:
		return head, true, fmt.Errorf("checksum %08x, want %08x", got, sum)
	case le.Uint32(b) != tableMagic:
		return head, true, fmt.Errorf("magic %08x is not a block table", le.Uint32(b))
	case le.Uint16(b[4:]) != tableVersion:
		return head, true, fmt.Errorf("version %d is not known; upgrade holdfast", le.Uint16(b[4:]))
	case int(le.Uint16(b[6:])) != t.region.InChunk() || block.Chunk(le.Uint32(b[8:])) != t.region.Chunk():
		return head, true, fmt.Errorf("belongs to region %d of chunk %d", le.Uint16(b[6:]), le.Uint32(b[8:]))
	case block.Generation(le.Uint32(b[12:])) != t.gen:
		return head, true, fmt.Errorf("belongs to generation %d", le.Uint32(b[12:]))
	case !owns(block.VolumeID(b[16:32])):
		return head, true, fmt.Errorf("belongs to volume %v", block.VolumeID(b[16:32]))
	}
	for i := range t.sums {
		e := entry{
			sum:    block.Sum(le.Uint32(b[tableSums+4*i:])),
			holder: block.Generation(le.Uint32(b[tableHolders+4*i:])),
		}
		s := le.Uint16(b[tableSlots+2*i:])
		e.state, e.slot = state(s>>14), s&slotMask
		if e.holder > t.gen || (e.state == absent) != (e.holder == 0) {
			return head, true, fmt.Errorf("entry %d is impossible: state %d, holder %d", i, e.state, e.holder)
		}
		t.set(i, e)
	}
	head = tableHead{seq: le.Uint32(b[32:]), journal: le.Uint64(b[40:])}
	if head.seq == 0 {
		return head, true, fmt.Errorf("sequence 0 is impossible")
	}
	return head, true, nil
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
