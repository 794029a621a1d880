package wire

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/vN.hex of the highest version anew")

func goldenName(v Version) string { return fmt.Sprintf("testdata/v%d.hex", v) }

// golden prints the samples: what they are, their heads in hexadecimal, header first,
// and how many bytes of data follow.
func golden(t *testing.T) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Every message of version %d. The data of a frame is not shown: block n of it is\n# the letter %q + n, 4096 times.\n", Highest, 'a')
	for i, m := range samples() {
		head, data := frame(t, Tag{Channel: 7, ID: uint64(i + 1)}, m)
		fmt.Fprintf(&b, "\n%s", m.Kind())
		if len(data) > 0 {
			fmt.Fprintf(&b, " data=%d", len(data))
		}
		fmt.Fprintf(&b, "\n%s\n", described(m))
		for len(head) > 0 {
			n := min(len(head), HeaderSize)
			fmt.Fprintf(&b, "\t%x\n", head[:n])
			head = head[n:]
		}
	}
	return b.Bytes()
}

// described prints a message's fields without its data.
func described(m Message) string {
	data := Data(m)
	SetData(m, nil)
	defer SetData(m, data)
	s := fmt.Sprintf("# %+v", m)
	return strings.Replace(s, " Data:[]", "", 1)
}

func TestBytesAreThoseOfTheGoldenFile(t *testing.T) {
	got := golden(t)
	if *update {
		if err := os.WriteFile(goldenName(Highest), got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(goldenName(Highest))
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(gotLines), len(wantLines)) {
		if i >= len(gotLines) || i >= len(wantLines) || gotLines[i] != wantLines[i] {
			t.Fatalf("%s:%d differs from what is written now; peers of this version would not understand it.\n"+
				"A change of the format needs a new version; run with -update for a new message", goldenName(Highest), i+1)
		}
	}
}

// TestGoldenFilesAreRead reads the frames of every version that there was, and
// compares with the samples, which for the highest one are what was written.
func TestGoldenFilesAreRead(t *testing.T) {
	for v := V1; v <= Highest; v++ {
		text, err := os.ReadFile(goldenName(v))
		if err != nil {
			t.Fatal(err)
		}
		want := samples()
		for i, part := range strings.Split(string(text), "\n\n")[1:] {
			var head []byte
			for line := range strings.Lines(part) {
				if line, ok := strings.CutPrefix(line, "\t"); ok {
					b, err := hex.DecodeString(strings.TrimSpace(line))
					if err != nil {
						t.Fatal(err)
					}
					head = append(head, b...)
				}
			}
			m, err := new(Box).Decode(head)
			if err != nil {
				t.Fatalf("%s: %s: %v", goldenName(v), part, err)
			}
			if i >= len(want) {
				t.Fatalf("%s has more frames than there are samples", goldenName(v))
			}
			if SetData(m, Data(want[i])); v == Highest && !same(m, want[i]) {
				t.Errorf("%s: read %+v, want %+v", goldenName(v), m, want[i])
			}
		}
	}
}
