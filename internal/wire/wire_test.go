package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestEveryKindHasASampleANameAndRoom(t *testing.T) {
	seen := map[Kind]bool{}
	for _, m := range samples() {
		seen[m.Kind()] = true
	}
	names := map[string]bool{}
	for k := Kind(1); k < kindEnd; k++ {
		m := new(Box).message(k)
		if m == nil || m.Kind() != k {
			t.Errorf("Box.message(%d) is %T", k, m)
			continue
		}
		if got := reflect.TypeOf(m).Elem().Name(); got != k.String() {
			t.Errorf("kind %d is called %s, its message %s", k, k, got)
		}
		if !seen[k] {
			t.Errorf("%s has no sample", k)
		}
		if k.carriesData() != (dataOf(m) != nil) {
			t.Errorf("%s carries data: %v, it has the field: %v", k, k.carriesData(), dataOf(m) != nil)
		}
		names[k.String()] = true
	}
	if len(names) != int(kindEnd)-1 {
		t.Errorf("%d names for %d kinds", len(names), kindEnd-1)
	}
	for _, k := range []Kind{0, kindEnd, 255} {
		if k.known() || k.FromCoordinator() || k.FromReplica() || k.carriesData() || k.String() != fmt.Sprintf("kind %d", k) {
			t.Errorf("kind %d passes for one of ours", k)
		}
	}
}

func TestEveryKindOfFaultHasItsNumber(t *testing.T) {
	kinds := 0
	for k := fault.Unknown; k == fault.Unknown || k.String() != fault.Unknown.String(); k++ {
		if faults[statuses[k]] != k || statuses[k] == 0 {
			t.Errorf("%s has the number %d, which means %s", k, statuses[k], faults[statuses[k]])
		}
		kinds++
	}
	if len(statuses) != kinds || len(faults) != kinds {
		t.Errorf("%d kinds of fault, %d numbers for them, %d back", kinds, len(statuses), len(faults))
	}
}

func TestWhatIsWrittenIsReadAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	box := new(Box)
	messages := samples()
	for k := Kind(1); k < kindEnd; k++ {
		for range 200 {
			messages = append(messages, draw(r, k))
		}
	}
	for _, m := range messages {
		tag := Tag{Channel: r.Uint32(), ID: r.Uint64()}
		prefix := []byte("before")
		b, err := Append(prefix, tag, m)
		if err != nil {
			t.Fatalf("%s %+v: %v", m.Kind(), m, err)
		}
		head := b[len(prefix):]
		h, err := ParseHeader(head)
		if err != nil || h.Kind != m.Kind() || h.Tag() != tag || h.HeadSize() != len(head) || h.DataSize() != len(Data(m)) {
			t.Fatalf("%s: header is %+v (%v), head has %d bytes, data %d", m.Kind(), h, err, len(head), len(Data(m)))
		}
		got, err := box.Decode(head)
		if err != nil {
			t.Fatalf("%s %+v: %v", m.Kind(), m, err)
		}
		if Data(got) != nil {
			t.Fatalf("%s has data before it was given any", m.Kind())
		}
		SetData(got, Data(m))
		if !same(got, m) {
			t.Fatalf("wrote %+v\nread  %+v", m, got)
		}
	}
}

func TestMessagesShareNothingWithTheBytesTheyWereReadFrom(t *testing.T) {
	for _, m := range samples() {
		head, data := frame(t, Tag{}, m)
		got, err := new(Box).Decode(head)
		if err != nil {
			t.Fatal(err)
		}
		SetData(got, data)
		for i := range head {
			head[i] = 0xEE
		}
		if !same(got, m) {
			t.Errorf("%s changed with the bytes that it was read from", m.Kind())
		}
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	box := new(Box)
	for _, m := range samples() {
		head, _ := frame(t, Tag{Channel: 7, ID: 9}, m)
		for bit := range len(head) * 8 {
			head[bit/8] ^= 1 << (bit % 8)
			if _, err := box.Decode(head); err == nil {
				t.Errorf("%s: bit %d was flipped and nobody noticed", m.Kind(), bit)
			}
			head[bit/8] ^= 1 << (bit % 8)
		}
	}
}

// resum makes the checksum of a head right again after it was changed.
func resum(head []byte) {
	binary.LittleEndian.PutUint32(head, block.MetaSum(head[4:]))
}

func TestHeadsThatNobodyMayWriteAreRefused(t *testing.T) {
	base := map[Kind]Message{}
	for _, m := range samples() {
		if base[m.Kind()] == nil {
			base[m.Kind()] = m
		}
	}
	cases := []struct {
		what   string
		of     Kind
		change func(head []byte) []byte
		want   fault.Kind
	}{
		{"kind 0", KindPing, put8(8, 0), fault.Unsupported},
		{"a kind to come", KindPing, put8(8, uint8(kindEnd)), fault.Unsupported},
		{"a flag to come", KindWrite, put16(10, 1<<15), fault.Unsupported},
		{"another message's flag", KindRead, put16(10, flagFUA), fault.Unsupported},
		{"a status to come", KindFail, put8(9, uint8(len(statuses)+1)), fault.Unsupported},
		{"no status", KindFail, put8(9, 0), fault.Unsupported},
		{"a status where none belongs", KindDone, put8(9, 1), fault.Invalid},
		{"an epoch where none belongs", KindDone, put8(24, 1), fault.Invalid},
		{"data where none belongs", KindRead, put16(6, 1), fault.Invalid},
		{"too much data", KindWrite, put16(6, DataBlocksMax+1), fault.Invalid},
		{"less data than the extent", KindWrite, put16(6, 1), fault.Invalid},
		{"no data", KindWrite, put16(6, 0), fault.Invalid},
		{"no data", KindReadDone, put16(6, 0), fault.Invalid},
		{"data in a hole", KindFill, put16(10, flagHole), fault.Invalid},
		{"meta missing", KindRead, shorten(1), fault.Invalid},
		{"all meta missing", KindOpen, shorten(32), fault.Invalid},
		{"meta too long", KindRead, lengthen(1), fault.Invalid},
		{"meta where none belongs", KindPing, lengthen(1), fault.Invalid},
		{"half a checksum", KindVerified, shorten(2), fault.Invalid},
		{"more checksums than data", KindReadDone, lengthen(4), fault.Invalid},
		{"blocks without the first", KindReadBlocks, put8(32+4+8, 8), fault.Invalid},
		{"blocks beyond any volume", KindReadBlocks, put32(32+4+4, 1<<31), fault.Invalid},
		{"fewer blocks than data", KindWriteBlocks, put8(32+8+31, 0), fault.Invalid},
		{"an extent of nothing", KindRead, put32(32+4+8, 0), fault.Invalid},
		{"an extent beyond any volume", KindRead, put32(32+4+4, 1<<31), fault.Invalid},
		{"an extent too long", KindZero, put32(32+8, ZeroBlocksMax+1), fault.Invalid},
		{"size 0", KindGrow, func(head []byte) []byte { clear(head[32:]); return head }, fault.Invalid},
		{"a size that is no number of blocks", KindGrow, put8(32, 1), fault.Invalid},
		{"a size beyond any volume", KindGrow, put8(32+7, 0x80), fault.Invalid},
		{"state 0", KindOpened, put8(32+8+4+8+8, 0), fault.Invalid},
		{"a state to come", KindOpened, put8(32+8+4+8+8, uint8(stateEnd)), fault.Invalid},
		{"generation 0 in a list", KindGenerations, put32(32, 0), fault.Invalid},
		{"generations out of order", KindGenerations, put32(32+4, 2), fault.Invalid},
		{"regions out of order", KindRegionList, put32(32+4+13, 12), fault.Invalid},
		{"dirty 2", KindRegionList, put8(32+4+12, 2), fault.Invalid},
		{"extents that overlap", KindExtentList, put32(32+4+8, 3), fault.Invalid},
		{"a lease for ever", KindPromise, put8(32+16+8+7, 0x7f), fault.Invalid},
		{"limit 0", KindRegions, put32(32+4, 0), fault.Invalid},
		{"a limit too high", KindRegions, put32(32+4, RegionsMax+1), fault.Invalid},
		{"a text that is not UTF-8", KindLeave, put8(32, 0xff), fault.Invalid},
		{"a name too long", KindHello, lengthen(NameMax), fault.Invalid},
		{"another magic", KindHello, put8(32, 'H'), fault.Invalid},
		{"version 0", KindHello, put16(32+8, 0), fault.Invalid},
		{"versions upside down", KindHello, put16(32+8, 9), fault.Invalid},
		{"incarnation 0", KindHello, func(head []byte) []byte { clear(head[32+44 : 32+52]); return head }, fault.Invalid},
	}
	for _, c := range cases {
		head, _ := frame(t, Tag{Channel: 7, ID: 9}, base[c.of])
		head = c.change(head)
		resum(head)
		m, err := new(Box).Decode(head)
		if err == nil {
			t.Errorf("%s with %s was read as %+v", c.of, c.what, m)
		} else if !fault.Is(err, c.want) {
			t.Errorf("%s with %s: %v (%s), want %s", c.of, c.what, err, fault.KindOf(err), c.want)
		}
	}
}

func put8(at int, v uint8) func([]byte) []byte {
	return func(head []byte) []byte { head[at] = v; return head }
}

func put16(at int, v uint16) func([]byte) []byte {
	return func(head []byte) []byte { binary.LittleEndian.PutUint16(head[at:], v); return head }
}

func put32(at int, v uint32) func([]byte) []byte {
	return func(head []byte) []byte { binary.LittleEndian.PutUint32(head[at:], v); return head }
}

func shorten(n int) func([]byte) []byte {
	return func(head []byte) []byte {
		head = head[:len(head)-n]
		return put16(4, uint16(len(head)-HeaderSize))(head)
	}
}

func lengthen(n int) func([]byte) []byte {
	return func(head []byte) []byte {
		head = append(head, make([]byte, n)...)
		return put16(4, uint16(len(head)-HeaderSize))(head)
	}
}

func TestLengthThatDoesNotFitTheHeaderIsRefused(t *testing.T) {
	head, _ := frame(t, Tag{}, &Open{})
	for _, b := range [][]byte{nil, head[:HeaderSize-1], head[:HeaderSize], head[:len(head)-1], append(bytes.Clone(head), 0)} {
		if _, err := new(Box).Decode(b); !fault.Is(err, fault.Invalid) {
			t.Errorf("%d bytes of %d: %v", len(b), len(head), err)
		}
	}
}

func TestMessagesThatCannotBeSaidAreNotWritten(t *testing.T) {
	sums, data := pattern(2)
	two := block.Extent{Start: 1, Count: 2}
	many := func(n int) (list []block.Generation) {
		for i := range n {
			list = append(list, block.Generation(i+1))
		}
		return list
	}
	for _, m := range []Message{
		&Hello{},
		&Hello{Lowest: 2, Highest: 1, Incarnation: 1},
		&Hello{Lowest: 1, Highest: 1, Incarnation: 1, Name: strings.Repeat("n", NameMax+1)},
		&Refuse{Status: 200},
		&Leave{Text: strings.Repeat("t", TextMax+1)},
		&Leave{Text: "\xff"},
		&Opened{Size: 1 << 30, Incarnation: 1, State: Serving, Snapshots: many(GenerationsMax + 1)},
		&Opened{Size: 1 << 30, Incarnation: 1},
		&Opened{Size: -block.Size, Incarnation: 1, State: Serving},
		&Opened{Size: 1 << 30, State: Serving},
		&Promise{Lease: -1},
		&Promise{Lease: DurationMax + 1},
		&Write{},
		&Write{Extent: two, Sums: sums},
		&Write{Extent: two, Data: data},
		&Write{Extent: two, Sums: sums[:1], Data: data},
		&Write{Extent: two, Sums: sums, Data: data[:block.Size]},
		&Write{Extent: two, Sums: sums, Data: data[:len(data)-1]},
		&Write{Extent: block.Extent{Start: blocksMax - 1, Count: 2}, Sums: sums, Data: data},
		&Write{Extent: block.Extent{Count: DataBlocksMax + 1}, Sums: make([]block.Sum, DataBlocksMax+1), Data: make([]byte, DataMax+block.Size)},
		&Zero{Extent: block.Extent{Count: ZeroBlocksMax + 1}},
		&Zero{Extent: block.Extent{Count: 1<<32 + 1}},
		&Read{Extent: block.Extent{Count: DataBlocksMax + 1}},
		&ReadDone{},
		&ReadDone{Sums: sums},
		&ReadDone{Sums: sums[:1], Data: data},
		&Verified{Sums: make([]block.Sum, VerifyBlocksMax+1)},
		&Grow{Size: block.VolumeSizeMax + block.Size},
		&Seal{Generation: 1},
		&Seal{Generation: 1, Step: SealConfirm + 1},
		&Generations{List: []block.Generation{0}},
		&Generations{List: []block.Generation{2, 2}},
		&Regions{},
		&RegionList{List: []RegionState{{Region: 2}, {Region: 1}}},
		&RegionList{List: []RegionState{{Region: 1<<28 + 1}}},
		&Changed{Limit: 1<<28 + 1},
		&ExtentList{List: []block.Extent{{Start: 1, Count: 2}, {Start: 2, Count: 1}}},
		&Fill{Extent: two, Hole: true, Sums: sums},
		&Fill{Extent: two, Hole: true, Data: data},
		&Fill{Extent: two},
		&Fail{Status: fault.Busy, Wait: DurationMax + 1},
	} {
		before := []byte("before")
		got, err := Append(before, Tag{}, m)
		if !fault.Is(err, fault.Invalid) || string(got) != "before" {
			t.Errorf("%s %+v was written as %d bytes: %v", m.Kind(), m, len(got)-len(before), err)
		}
	}
}

func TestLongestListsFit(t *testing.T) {
	g := &Generations{}
	r := &RegionList{}
	e := &ExtentList{}
	for i := range GenerationsMax {
		g.List = append(g.List, block.Generation(i+1))
	}
	for i := range RegionsMax {
		r.List = append(r.List, RegionState{Region: block.Region(i)})
	}
	for i := range ExtentsMax {
		e.List = append(e.List, block.Extent{Start: block.Index(i * 2), Count: 1})
	}
	sums, data := pattern(DataBlocksMax)
	for _, m := range []Message{g, r, e, &Verified{Sums: make([]block.Sum, VerifyBlocksMax)},
		&Write{Extent: block.Extent{Count: DataBlocksMax}, Sums: sums, Data: data},
		&ReadDone{Sums: sums, Data: data}, &Leave{Text: strings.Repeat("t", TextMax)},
		&Zero{Extent: block.Extent{Start: blocksMax - ZeroBlocksMax, Count: ZeroBlocksMax}},
		&Promised{Lease: DurationMax}, &Grow{Size: block.VolumeSizeMax}} {
		head, data := frame(t, Tag{}, m)
		got, err := new(Box).Decode(head)
		if err != nil {
			t.Fatal(err)
		}
		if SetData(got, data); !same(got, m) {
			t.Errorf("%s did not come back", m.Kind())
		}
	}
}

func TestVersions(t *testing.T) {
	hello := func(lowest, highest Version) *Hello {
		return &Hello{Lowest: lowest, Highest: highest, Cluster: id16(1), Node: id16(byte(highest)), Incarnation: 1}
	}
	for _, c := range []struct {
		a, b *Hello
		want Version // 0: none
	}{
		{hello(1, 1), hello(1, 1), 1},
		{hello(1, 3), hello(2, 5), 3},
		{hello(3, 3), hello(1, 9), 3},
		{hello(1, 1), hello(2, 3), 0},
	} {
		for _, pair := range [][2]*Hello{{c.a, c.b}, {c.b, c.a}} {
			got, err := Agree(pair[0], pair[1])
			if got != c.want || (err == nil) != (c.want != 0) {
				t.Errorf("%d-%d and %d-%d agree on %d (%v), want %d", pair[0].Lowest, pair[0].Highest, pair[1].Lowest, pair[1].Highest, got, err, c.want)
			}
			if err != nil && (!fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "upgrade holdfast on node "+c.a.Node.String())) {
				t.Errorf("%v: does not say that the older node needs the upgrade", err)
			}
		}
	}
	stranger := hello(1, 1)
	stranger.Cluster = id16(9)
	if _, err := Agree(hello(1, 1), stranger); !fault.Is(err, fault.Denied) {
		t.Errorf("another cluster: %v", err)
	}
}

func TestFailuresTravel(t *testing.T) {
	cause := fault.WithCure(fault.Errorf("store.Write", fault.NoSpace, "pool %q is full", "p"), "add space")
	m := FailOf(cause)
	head, _ := frame(t, Tag{}, &m)
	got, err := new(Box).Decode(head)
	if err != nil {
		t.Fatal(err)
	}
	volume := block.VolumeID(id16(1))
	err = got.(*Fail).Err("replica.Write", volume)
	if !fault.Is(err, fault.NoSpace) || !strings.Contains(err.Error(), cause.Error()) || !strings.Contains(err.Error(), volume.String()) {
		t.Errorf("%v became %v", cause, err)
	}
	if err := (&Refuse{Status: fault.Denied}).Err("op"); !fault.Is(err, fault.Denied) {
		t.Errorf("%v is %v", err, fault.KindOf(err))
	}
	if err := (&Fail{Status: fault.Busy}).Err("op", volume); !strings.Contains(err.Error(), "busy") {
		t.Errorf("%v does not name the kind", err)
	}
}

func TestTextsAreClippedBetweenRunes(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"short", "short"},
		{strings.Repeat("é", TextMax), strings.Repeat("é", TextMax/2)},
		{"x" + strings.Repeat("é", TextMax), "x" + strings.Repeat("é", TextMax/2-1)},
		{"a\xffb", "a?b"},
	} {
		if got := Clip(c.in); got != c.want {
			t.Errorf("%.20q... became %d bytes, want %d", c.in, len(got), len(c.want))
		}
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	box, buf := new(Box), make([]byte, 0, HeadMax)
	for _, m := range samples() {
		switch m.(type) {
		case *Hello, *Refuse, *Leave, *Fail:
			continue // they have texts, and are rare
		}
		cost := testing.AllocsPerRun(100, func() {
			head, err := Append(buf, Tag{Channel: 7, ID: 9}, m)
			if err == nil {
				_, err = box.Decode(head)
			}
			if err != nil {
				t.Fatal(err)
			}
		})
		if cost != 0 {
			t.Errorf("%s costs %v allocations", m.Kind(), cost)
		}
	}
}

func TestTrimmedBoxHoldsNoLongList(t *testing.T) {
	box := new(Box)
	for _, m := range samples() {
		head, _ := frame(t, Tag{}, m)
		if _, err := box.Decode(head); err != nil {
			t.Fatal(err)
		}
	}
	box.Trim()
	if n := held(box); n > 8<<10 {
		t.Errorf("a trimmed box holds %d bytes", n)
	}
}

func BenchmarkMessage(b *testing.B) {
	sums, data := pattern(1)
	sums32, data32 := pattern(32)
	for _, c := range []struct {
		name string
		m    Message
	}{
		{"Write4K", &Write{Epoch: 1, Extent: block.Extent{Start: 1, Count: 1}, Sums: sums, Data: data}},
		{"Write128K", &Write{Epoch: 1, Extent: block.Extent{Start: 1, Count: 32}, Sums: sums32, Data: data32}},
		{"Done", &Done{Incarnation: 1}},
		{"Renew", &Renew{Epoch: 1, Sequence: 1}},
		{"Promise", &Promise{Epoch: 1, Lease: time.Second}},
		{"VerifiedRegion", &Verified{Sums: make([]block.Sum, block.PerRegion)}},
	} {
		buf := make([]byte, 0, HeadMax)
		b.Run(c.name+"/append", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Append(buf, Tag{ID: 1}, c.m); err != nil {
					b.Fatal(err)
				}
			}
		})
		head, err := Append(nil, Tag{ID: 1}, c.m)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			box := new(Box)
			for b.Loop() {
				if _, err := box.Decode(head); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestBlocksAreTheRunsThatWereAdded(t *testing.T) {
	for _, runs := range [][]block.Extent{
		{{Start: 1000, Count: 1}},
		{{Start: 1000, Count: 256}},
		{{Start: 1000, Count: 2}, {Start: 1003, Count: 100}, {Start: 1255, Count: 1}},
		{{Start: 0, Count: 1}, {Start: 63, Count: 2}, {Start: 128, Count: 64}},
	} {
		var b Blocks
		count := uint64(0)
		for _, e := range runs {
			b.Add(e)
			count += e.Count
		}
		var got []block.Extent
		for e := b.Next(0); !e.Empty(); e = b.Next(e.End()) {
			got = append(got, e)
		}
		last := runs[len(runs)-1]
		if want := (block.Extent{Start: runs[0].Start, Count: uint64(last.End() - runs[0].Start)}); b.Span() != want || uint64(b.Count()) != count || !slices.Equal(got, runs) {
			t.Errorf("runs %v are blocks %v, %d of them in %v", runs, got, b.Count(), b.Span())
		}
	}
}
