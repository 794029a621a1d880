package store

import (
	"encoding/binary"
	"fmt"
	"reflect"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

// The decoders of what lies on disk never panic, and what they accept means one thing.
// Checksums are made right here, or nothing but them would be tested.

// patched returns base with data laid over it by exclusive or, from at on.
func patched(base, data []byte, at uint16) []byte {
	b := append([]byte(nil), base...)
	for i, x := range data {
		b[(int(at)+i)%len(b)] ^= x
	}
	return b
}

func FuzzManifest(f *testing.F) {
	for _, m := range []Manifest{
		{Version: 1, Volume: testVolume, Size: 1 << 30, Generation: 1, Journal: 1},
		{Version: 1, Volume: testVolume, Size: 4096, Generation: 9, Snapshots: []block.Generation{3, 7}, Reclaim: []block.Generation{2},
			Promised: 5, Origins: []block.VolumeID{{7}}, Base: 2, JournalTail: 8},
	} {
		line := m.encode()
		f.Add(line[:len(line)-len("\ncrc32c:00000000\n")])
	}
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decodeManifest(fmt.Appendf(line, "\ncrc32c:%08x\n", block.MetaSum(line)))
		if err != nil {
			return
		}
		again, err := decodeManifest(m.encode())
		if err != nil || !reflect.DeepEqual(m, again) {
			t.Fatalf("%q is %+v, and then %+v, %v", line, m, again, err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	healthy := make([]byte, recordSize)
	record{epoch: 3, since: 4, tableGen: 2, tableSeq: 9, lost: 1}.encode(healthy, 5)
	f.Add(healthy, uint32(5))
	f.Add(make([]byte, recordSize), uint32(0))
	f.Fuzz(func(t *testing.T, raw []byte, region uint32) {
		b := make([]byte, recordSize)
		copy(b, raw)
		if !allZero(b) {
			binary.LittleEndian.PutUint32(b[28:], recordSum(b, block.Region(region)))
		}
		r, err := decodeRecord(b, block.Region(region))
		if err != nil {
			return
		}
		again := make([]byte, recordSize)
		r.encode(again, block.Region(region))
		if string(again) != string(b) && r != (record{}) {
			t.Fatalf("%x is %+v, which is written as %x", b, r, again)
		}
	})
}

func FuzzTable(f *testing.F) {
	tab := new(table)
	tab.reset(17, 6)
	for i := range block.PerRegion / 2 {
		tab.set(i, entry{state: state(i % 4), slot: uint16(i), holder: block.Generation(i % 4), sum: block.Sum(i)})
	}
	tab.set(9, lostEntry(6))
	healthy := make([]byte, tableSize)
	tab.encode(healthy, testVolume, 3, 12)
	owns := func(v block.VolumeID) bool { return v == testVolume }
	f.Add([]byte{0}, uint16(0))
	f.Add([]byte{1, 2, 3, 4, 5, 6, 7, 8}, uint16(32))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, uint16(tableHolders))
	f.Add([]byte{0xff, 0xff}, uint16(tableSlots))
	f.Fuzz(func(t *testing.T, data []byte, at uint16) {
		b := patched(healthy, data, at)
		clear(b[36:40])
		binary.LittleEndian.PutUint32(b[36:], block.MetaSum(b[:tableSize]))
		var got, again table
		got.reset(17, 6)
		head, present, err := decodeTable(&got, b, owns)
		if err != nil || !present {
			return
		}
		got.encode(b, testVolume, head.seq, head.journal)
		again.reset(17, 6)
		if head2, _, err := decodeTable(&again, b, owns); err != nil || head2 != head || got != again {
			t.Fatalf("%+v is written as %+v, %v", head, head2, err)
		}
		_ = got.runs(block.PerRegion)
		_ = got.slotsEnd()
	})
}

func FuzzJournal(f *testing.F) {
	const blocks = 16
	ring := make([]byte, blocks*block.Size)
	for n := uint64(3); n < 12; n++ {
		encodeJournalBlock(ring[n*block.Size:], testVolume, journalHead{number: n, session: uint32(n / 5), boot: 1, proven: n - 2, durable: n - 3, tail: 3, start: n/5*5 + 1},
			[]mapping{{kind: mapData, count: 3, chunk: 1, gen: 2, first: uint16(3 * n), slot: uint16(n)}, {kind: mapZero, count: 1, gen: 1, first: uint16(n)}})
	}
	f.Add([]byte{0}, uint16(0))
	f.Add([]byte{7, 7, 7}, uint16(5*block.Size+64))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(7*block.Size+8))
	f.Add([]byte{0xff, 0xff}, uint16(4*block.Size+6))
	f.Fuzz(func(t *testing.T, data []byte, at uint16) {
		b := patched(ring, data, at)
		for i := range blocks {
			one := b[i*block.Size : (i+1)*block.Size]
			if !allZero(one) {
				sum := journalSum(one, testVolume)
				binary.LittleEndian.PutUint32(one[16:], sum)
			}
			h, records, err := decodeJournalBlock(one, testVolume, nil)
			if err != nil {
				continue
			}
			again := make([]byte, block.Size)
			encodeJournalBlock(again, testVolume, h, records)
			h2, records2, err := decodeJournalBlock(again, testVolume, nil)
			if err != nil || h2 != h || !reflect.DeepEqual(records, records2) {
				t.Fatalf("%+v is written as %+v, %v", h, h2, err)
			}
		}
		h := readHistory(b, testVolume)
		end := h.through(h.durable)
		_, _ = h.hasRecords(end+1), h.rewind(end+1, h.tail)
	})
}

func FuzzNames(f *testing.F) {
	f.Add("00000012.000003")
	f.Add("00000012.000003.merged-000002")
	f.Add("4294967295.4294967295")
	f.Fuzz(func(t *testing.T, name string) {
		if k, ok := parseFileKey(name); ok && k.name() != name {
			t.Fatalf("%q is %+v", name, k)
		}
		if into, from, ok := parseMerged(name); ok && mergedName(into, from) != name {
			t.Fatalf("%q is %+v and %d", name, into, from)
		}
	})
}
