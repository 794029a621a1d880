package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/holdfast-io/holdfast/internal/block"
)

// A record of the region table, 32 bytes, never across a 512-byte sector:
//
//	0   epoch u64 of the last write
//	8   dirty since u32: the generation in which the region became dirty, 0 clean
//	12  table generation u32: the chunk file that has the newest table, 0 none
//	16  table sequence u32: the newest table has at least this one, and exactly this
//	    one when the region is clean
//	20  lost u32: what generations before this one show of the region can't be believed,
//	    0 none; see Replica.Reset
//	24  flags u32: 1 rewriting, tables older than the newest one are being written again
//	28  checksum u32 of the 28 bytes before and the region number
//
// 32 zero bytes are the record of a region that was never written.
const (
	recordSize  = 32
	perSector   = 512 / recordSize
	perTabBlock = block.Size / recordSize
)

// damagedRecord stands where a record was damaged: no record has its checksum.
var damagedRecord = [recordSize]byte(bytes.Repeat([]byte{0xff}, recordSize))

// record is what the region table says of one region.
type record struct {
	epoch    block.Epoch
	since    block.Generation // dirty since; 0 clean
	tableGen block.Generation
	tableSeq uint32
	lost     block.Generation // generations before this one are lost here
	// rewriting means that a bad copy of an older table may be a torn write. Else it is
	// damage: older tables are durable before a record names a newer one.
	rewriting bool
}

const flagRewriting = 1

func (r record) encode(b []byte, region block.Region) {
	clear(b[:recordSize])
	if r == (record{}) {
		return
	}
	le := binary.LittleEndian
	le.PutUint64(b[0:], uint64(r.epoch))
	le.PutUint32(b[8:], uint32(r.since))
	le.PutUint32(b[12:], uint32(r.tableGen))
	le.PutUint32(b[16:], r.tableSeq)
	le.PutUint32(b[20:], uint32(r.lost))
	if r.rewriting {
		le.PutUint32(b[24:], flagRewriting)
	}
	le.PutUint32(b[28:], recordSum(b, region))
}

func recordSum(b []byte, region block.Region) uint32 {
	c := newShortSum()
	c.add(b[:28]...)
	c.add32(uint32(region))
	return c.sum()
}

func decodeRecord(b []byte, region block.Region) (record, error) {
	if allZero(b[:recordSize]) {
		return record{}, nil
	}
	le := binary.LittleEndian
	if got, want := recordSum(b, region), le.Uint32(b[28:]); got != want {
		return record{}, fmt.Errorf("record of region %d: checksum %08x, want %08x", region, got, want)
	}
	if le.Uint32(b[24:])&^flagRewriting != 0 {
		return record{}, fmt.Errorf("record of region %d: made by a newer version; upgrade holdfast", region)
	}
	return record{
		epoch:    block.Epoch(le.Uint64(b[0:])),
		since:    block.Generation(le.Uint32(b[8:])),
		tableGen: block.Generation(le.Uint32(b[12:])),
		tableSeq: le.Uint32(b[16:]),
		lost:     block.Generation(le.Uint32(b[20:])),

		rewriting: le.Uint32(b[24:])&flagRewriting != 0,
	}, nil
}
