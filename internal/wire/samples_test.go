package wire

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// pattern returns blocks of data, each of one byte's repetition, and their checksums.
func pattern(blocks int) ([]block.Sum, []byte) {
	data := make([]byte, blocks*block.Size)
	for i := range data {
		data[i] = byte('a' + i/block.Size)
	}
	sums := make([]block.Sum, blocks)
	block.Checksums(sums, data)
	return sums, data
}

func id16(first byte) (v [16]byte) {
	for i := range v {
		v[i] = first + byte(i)
	}
	return v
}

// samples are one message of every kind, at least, with every field set.
func samples() []Message {
	sums, data := pattern(2)
	return []Message{
		&Hello{Lowest: 1, Highest: 3, Cluster: id16(0x10), Node: id16(0x20), Incarnation: 0x1122334455667788,
			Boot: 0x99aabbccddeeff00, Features: 5, Name: "node-1"},
		&Refuse{Status: fault.Unsupported, Text: "upgrade me"},
		&Leave{Text: "upgrade to 2.0"},
		&Ping{},
		&Pong{},
		&Open{Volume: id16(0x30), Replica: id16(0x40)},
		&Opened{Size: 10 << 30, Generation: 7, Promised: 41, Incarnation: 0xfeed, Boot: 0xb007, State: Serving,
			Snapshots: []block.Generation{2, 3, 6}},
		&Promise{Epoch: 42, Owner: id16(0x50), Incarnation: 0xfeed, Lease: 5 * time.Second, SameNode: true},
		&Promised{Epoch: 42, Generation: 7, Lease: 5 * time.Second},
		&Renew{Epoch: 42, Sequence: 1000},
		&Renewed{Sequence: 1000},
		&Release{Epoch: 42},
		&Done{Incarnation: 0xfeed},
		&Fail{Status: fault.Fenced, Epoch: 43, Wait: 1500 * time.Millisecond, Block: 77, Text: "epoch 43 was promised"},
		&Write{Epoch: 42, Extent: block.Extent{Start: 1 << 20, Count: 2}, FUA: true, Sums: sums, Data: data},
		&Zero{Epoch: 42, Extent: block.Extent{Start: 5, Count: ZeroBlocksMax}, FUA: true, Unmap: true},
		&Read{Epoch: 42, Generation: 6, Extent: block.Extent{Start: 1 << 20, Count: 2}},
		&ReadDone{Sums: sums, Data: data},
		&Flush{Epoch: 42},
		&Flushed{Incarnation: 0xfeed, Mark: 99},
		&Verify{Epoch: 42, Generation: 6, Extent: block.Extent{Start: 1 << 20, Count: VerifyBlocksMax}},
		&Verified{Sums: append(slices.Clone(sums), block.ZeroSum)},
		&Clean{Epoch: 42, Mark: 99},
		&Snapshot{Epoch: 42, Generation: 7},
		&DeleteSnapshot{Epoch: 42, Generation: 3},
		&Grow{Epoch: 42, Size: 11 << 30},
		&Generations{Epoch: 42, List: []block.Generation{2, 6, 7}},
		&Regions{Epoch: 42, From: 12, Limit: RegionsMax},
		&RegionList{Next: 14, List: []RegionState{{Region: 12, Epoch: 40, Dirty: true}, {Region: 13, Epoch: 9}}},
		&Changed{Epoch: 42, Since: 3, Generation: 6, From: 12, Limit: 1000},
		&ExtentList{Next: 16, Last: true, List: []block.Extent{{Start: 12288, Count: 1}, {Start: 12290, Count: 2000}}},
		&Fill{Epoch: 42, Generation: 6, Extent: block.Extent{Start: 8, Count: 2}, Sums: sums, Data: data},
		&Fill{Epoch: 42, Generation: 6, Extent: block.Extent{Start: 8, Count: ZeroBlocksMax}, Hole: true},
		&ReadBlocks{Epoch: 42, Generation: 6, Blocks: someBlocks(0, 3)},
		&WriteBlocks{Epoch: 42, Blocks: someBlocks(0, 255), Sums: sums, Data: data},
		&Flush{Epoch: 42, Whole: true},
		&Seal{Epoch: 42, Generation: 7, Step: SealEnd},
	}
}

// draw returns a random message of kind k that can be said.
func draw(r *rand.Rand, k Kind) Message {
	m := new(Box).message(k)
	v := reflect.ValueOf(m).Elem()
	for i := range v.NumField() {
		drawField(r, v.Field(i))
	}
	switch m := m.(type) {
	case *Hello:
		m.Lowest = 1 + Version(r.UintN(100))
		m.Highest = m.Lowest + Version(r.UintN(100))
	case *Opened:
		m.State = 1 + State(r.UintN(uint(stateEnd-1)))
	case *Seal:
		m.Step = SealPrepare + SealStep(r.UintN(uint(SealConfirm)))
	case *Write:
		m.Sums, m.Data = drawPayload(r, &m.Extent)
	case *ReadDone:
		m.Sums, m.Data = drawPayload(r, &block.Extent{})
	case *Fill:
		if m.Sums = nil; !m.Hole {
			m.Sums, m.Data = drawPayload(r, &m.Extent)
		}
	case *WriteBlocks:
		m.Sums, m.Data = pattern(m.Blocks.Count())
	case *Regions:
		m.Limit = 1 + r.Uint32N(RegionsMax)
	case *Changed:
		m.Limit = 1 + r.Uint32N(1000)
	}
	return m
}

// someBlocks are those that many after the first, which is block 1<<20.
func someBlocks(after ...block.Index) (b Blocks) {
	for _, i := range after {
		b.Add(block.Extent{Start: 1<<20 + i, Count: 1})
	}
	return b
}

func drawPayload(r *rand.Rand, e *block.Extent) ([]block.Sum, []byte) {
	e.Count = 1 + r.Uint64N(8)
	return pattern(int(e.Count))
}

func drawField(r *rand.Rand, v reflect.Value) {
	switch p := v.Addr().Interface().(type) {
	case *string:
		*p = strings.Repeat("é", r.IntN(100))
	case *time.Duration:
		*p = time.Duration(r.Int64N(int64(DurationMax) + 1))
	case *int64:
		*p = block.Size * (1 + r.Int64N(blocksMax))
	case *bool:
		*p = r.IntN(2) == 1
	case *fault.Kind:
		*p = fault.Kind(r.UintN(uint(len(statuses))))
	case *block.Region:
		*p = block.Region(r.Uint32N(1 << 28))
	case *block.Extent:
		*p = block.Extent{Start: block.Index(r.Uint64N(1 << 37)), Count: 1 + r.Uint64N(DataBlocksMax)}
	case *Blocks:
		*p = Blocks{Start: block.Index(r.Uint64N(1 << 37)), Mask: [4]uint64{r.Uint64() | 1, r.Uint64(), 0, r.Uint64()}}
	case *[]block.Sum:
		for range r.IntN(5) {
			*p = append(*p, block.Sum(r.Uint32()))
		}
	case *[]block.Generation:
		for g := range block.Generation(r.UintN(5)) {
			*p = append(*p, g*10+1)
		}
	case *[]RegionState:
		for n := range block.Region(r.UintN(5)) {
			*p = append(*p, RegionState{Region: n * 10, Epoch: block.Epoch(r.Uint64()), Dirty: r.IntN(2) == 1})
		}
	case *[]block.Extent:
		for n := range block.Index(r.UintN(5)) {
			*p = append(*p, block.Extent{Start: n * 10, Count: 1 + r.Uint64N(10)})
		}
	case *[]byte:
	default:
		switch v.Kind() {
		case reflect.Array:
			for i := range v.Len() {
				v.Index(i).SetUint(r.Uint64N(256))
			}
		case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
			v.SetUint(1 + r.Uint64N(1<<v.Type().Bits()-1))
		default:
			panic(v.Type())
		}
	}
}

// frame returns the head of m's frame, and its data.
func frame(t testing.TB, tag Tag, m Message) (head, data []byte) {
	t.Helper()
	head, err := Append(nil, tag, m)
	if err != nil {
		t.Fatalf("%s: %v", m.Kind(), err)
	}
	return head, Data(m)
}

// same compares messages; an empty list and none are the same.
func same(a, b Message) bool {
	return reflect.DeepEqual(normal(a), normal(b))
}

func normal(m Message) any {
	v := reflect.New(reflect.TypeOf(m).Elem()).Elem()
	v.Set(reflect.ValueOf(m).Elem())
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	return v.Interface()
}

// held returns how many bytes the lists in a box have room for.
func held(box *Box) int {
	n := 0
	v := reflect.ValueOf(box).Elem()
	for i := range v.NumField() {
		for j := range v.Field(i).NumField() {
			if f := v.Field(i).Field(j); f.Kind() == reflect.Slice && f.Type().Elem() != reflect.TypeFor[byte]() {
				n += f.Cap() * int(f.Type().Elem().Size())
			}
		}
	}
	return n
}
