package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/holdfast-io/holdfast/internal/block"
)

// A journal block, 4 KiB at (number % blocks):
//
//	0   magic u32, version u16, count u16
//	8   number u64, from 1
//	16  checksum u32 of the block with this field zero, and the volume's id
//	20  session u32: rises each time that the replica is opened
//	24  boot u64: names the boot of the machine in which the block was written
//	32  proven u64: the data of the records in blocks up to this one has arrived
//	40  durable u64: records in blocks up to this one, and their data, are durable
//	48  tail u64: tables on disk have the mappings of all blocks before this one
//	56  start u64: the first block of this session
//	64  records, 20 bytes each
//
// A record: kind u8, zero u8, count u16, chunk u32, generation u32, first block in
// chunk u16, first slot u16, checksum u32 of the blocks' checksums.
const (
	journalMagic   = 0x4c4a5048 // "HPJL"
	journalVersion = 1
	journalHeader  = 64
	mappingSize    = 20
	mappingsMax    = (block.Size - journalHeader) / mappingSize
)

type mappingKind uint8

const (
	mapData   mappingKind = iota + 1 // blocks are in the slots
	mapZero                          // blocks read as zeros
	mapCancel                        // the write of a mapData failed: blocks are as before it
)

// mapping is one journal record: count blocks of a chunk and the slots they got.
type mapping struct {
	kind  mappingKind
	count uint16
	chunk block.Chunk
	gen   block.Generation
	first uint16 // block in chunk
	slot  uint16
	sum   uint32 // over the blocks' checksums
}

// journalHead is what a journal block says besides its records.
type journalHead struct {
	number  uint64
	session uint32
	boot    uint64
	proven  uint64
	durable uint64
	tail    uint64
	start   uint64
}

func encodeJournalBlock(b []byte, volume block.VolumeID, h journalHead, records []mapping) {
	b = b[:block.Size]
	clear(b)
	le := binary.LittleEndian
	le.PutUint32(b[0:], journalMagic)
	le.PutUint16(b[4:], journalVersion)
	le.PutUint16(b[6:], uint16(len(records)))
	le.PutUint64(b[8:], h.number)
	le.PutUint32(b[20:], h.session)
	le.PutUint64(b[24:], h.boot)
	le.PutUint64(b[32:], h.proven)
	le.PutUint64(b[40:], h.durable)
	le.PutUint64(b[48:], h.tail)
	le.PutUint64(b[56:], h.start)
	for i, m := range records {
		r := b[journalHeader+i*mappingSize:]
		r[0] = byte(m.kind)
		le.PutUint16(r[2:], m.count)
		le.PutUint32(r[4:], uint32(m.chunk))
		le.PutUint32(r[8:], uint32(m.gen))
		le.PutUint16(r[12:], m.first)
		le.PutUint16(r[14:], m.slot)
		le.PutUint32(r[16:], m.sum)
	}
	le.PutUint32(b[16:], journalSum(b, volume))
}

// journalSum leaves b as it found it, except the checksum field, which it zeroes.
func journalSum(b []byte, volume block.VolumeID) uint32 {
	clear(b[16:20])
	v := newShortSum()
	v.add(volume[:]...)
	return block.MetaSum(b) ^ v.sum()
}

// decodeJournalBlock reads what encodeJournalBlock wrote; it appends the records to
// records. A block of zeros, or of an older lap, is told by the caller from number.
func decodeJournalBlock(b []byte, volume block.VolumeID, records []mapping) (journalHead, []mapping, error) {
	b = b[:block.Size]
	le := binary.LittleEndian
	var h journalHead
	want := le.Uint32(b[16:])
	got := journalSum(b, volume)
	le.PutUint32(b[16:], want)
	count := int(le.Uint16(b[6:]))
	switch {
	case got != want:
		return h, records, fmt.Errorf("checksum %08x, want %08x", got, want)
	case le.Uint32(b) != journalMagic:
		return h, records, fmt.Errorf("magic %08x is not a journal block", le.Uint32(b))
	case le.Uint16(b[4:]) != journalVersion:
		return h, records, fmt.Errorf("version %d is not known; upgrade holdfast", le.Uint16(b[4:]))
	case count > mappingsMax:
		return h, records, fmt.Errorf("%d records, at most %d fit", count, mappingsMax)
	}
	h = journalHead{
		number:  le.Uint64(b[8:]),
		session: le.Uint32(b[20:]),
		boot:    le.Uint64(b[24:]),
		proven:  le.Uint64(b[32:]),
		durable: le.Uint64(b[40:]),
		tail:    le.Uint64(b[48:]),
		start:   le.Uint64(b[56:]),
	}
	for i := range count {
		r := b[journalHeader+i*mappingSize:]
		m := mapping{
			kind:  mappingKind(r[0]),
			count: le.Uint16(r[2:]),
			chunk: block.Chunk(le.Uint32(r[4:])),
			gen:   block.Generation(le.Uint32(r[8:])),
			first: le.Uint16(r[12:]),
			slot:  le.Uint16(r[14:]),
			sum:   le.Uint32(r[16:]),
		}
		if err := m.validate(); err != nil {
			return h, records, fmt.Errorf("record %d: %w", i, err)
		}
		records = append(records, m)
	}
	return h, records, nil
}

func (m mapping) validate() error {
	switch {
	case m.kind < mapData || m.kind > mapCancel:
		return fmt.Errorf("kind %d is not known", m.kind)
	case m.count == 0 || int(m.first)+int(m.count) > block.PerChunk:
		return fmt.Errorf("blocks %d+%d leave the chunk", m.first, m.count)
	case int(m.first)/block.PerRegion != (int(m.first)+int(m.count)-1)/block.PerRegion:
		return fmt.Errorf("blocks %d+%d leave the region", m.first, m.count)
	case m.kind != mapZero && int(m.slot)+int(m.count) > block.PerChunk:
		return fmt.Errorf("slots %d+%d leave the file", m.slot, m.count)
	case m.gen == 0:
		return fmt.Errorf("generation 0")
	}
	return nil
}

func (m mapping) region() block.Region {
	return (m.chunk.Start() + block.Index(m.first)).Region()
}

// sumOfSums is the checksum that a mapping carries for its blocks' data: the CRC-32C
// of their checksums.
func sumOfSums(sums []block.Sum) uint32 {
	c := newShortSum()
	for _, s := range sums {
		c.add32(uint32(s))
	}
	return c.sum()
}

// shortSum computes the CRC-32C of a few bytes that are not on the heap, and that
// crc32.Update would move there.
type shortSum uint32

func newShortSum() shortSum { return ^shortSum(0) }

func (c *shortSum) add(b ...byte) {
	for _, x := range b {
		*c = shortSum(castagnoli[byte(*c)^x]) ^ *c>>8
	}
}

// add32 adds the little-endian bytes of v.
func (c *shortSum) add32(v uint32) { c.add(byte(v), byte(v>>8), byte(v>>16), byte(v>>24)) }

func (c shortSum) sum() uint32 { return ^uint32(c) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)
