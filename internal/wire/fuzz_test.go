package wire

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

func FuzzHeader(f *testing.F) {
	for _, m := range samples() {
		head, _ := frame(f, Tag{Channel: 7, ID: 9}, m)
		f.Add(head[:HeaderSize])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		if h.HeadSize() > HeadMax || h.DataSize() > DataMax || h.DataSize()%block.Size != 0 || h.DataSize() > 0 && !h.Kind.carriesData() {
			t.Errorf("header %x announces %d bytes of head, %d of data", b[:HeaderSize], h.HeadSize(), h.DataSize())
		}
	})
}

// FuzzMessage gives a frame's head in parts, because no fuzzer guesses a checksum. What
// is accepted must be written again as the same bytes, and be read as the same message.
func FuzzMessage(f *testing.F) {
	for _, m := range samples() {
		head, _ := frame(f, Tag{Channel: 7, ID: 9}, m)
		f.Add(head[8], head[9], binary.LittleEndian.Uint16(head[10:]), binary.LittleEndian.Uint16(head[6:]),
			binary.LittleEndian.Uint64(head[24:]), head[HeaderSize:])
	}
	box := new(Box)
	f.Fuzz(func(t *testing.T, kind, status uint8, flags, blocks uint16, epoch uint64, meta []byte) {
		if len(meta) > MetaMax {
			return
		}
		head := make([]byte, HeaderSize, HeaderSize+len(meta))
		binary.LittleEndian.PutUint16(head[4:], uint16(len(meta)))
		binary.LittleEndian.PutUint16(head[6:], blocks)
		head[8], head[9] = kind, status
		binary.LittleEndian.PutUint16(head[10:], flags)
		binary.LittleEndian.PutUint32(head[12:], 7)
		binary.LittleEndian.PutUint64(head[16:], 9)
		binary.LittleEndian.PutUint64(head[24:], epoch)
		head = append(head, meta...)
		resum(head)

		m, err := box.Decode(head)
		if err != nil {
			return
		}
		h, err := ParseHeader(head)
		if err != nil {
			t.Fatalf("Decode took %x, ParseHeader says %v", head, err)
		}
		SetData(m, make([]byte, h.DataSize()))
		again, err := Append(nil, Tag{Channel: 7, ID: 9}, m)
		if err != nil {
			t.Fatalf("%x was read as %+v, which can't be written: %v", head, m, err)
		}
		if !bytes.Equal(again, head) {
			t.Fatalf("%x\nwas read as %+v, which is written as\n%x", head, m, again)
		}
		twin, err := new(Box).Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if SetData(twin, Data(m)); !same(m, twin) {
			t.Fatalf("%x was read as %+v, then as %+v", head, m, twin)
		}
	})
}

// FuzzDecode gives bytes as they are: nothing may panic, and lists may take no more
// memory than a multiple of what was given.
func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		head, _ := frame(f, Tag{Channel: 7, ID: 9}, m)
		f.Add(head)
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		if len(head) >= HeaderSize {
			resum(head)
		}
		box := new(Box)
		_, _ = box.Decode(head)
		// An element takes 4 to 13 bytes in a frame, up to 24 in memory, and what
		// allocates rounds up.
		if n := held(box); n > 64+3*len(head) {
			t.Errorf("%d bytes made lists of %d", len(head), n)
		}
	})
}
