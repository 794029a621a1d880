package host

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// resident returns how much of files this process has mapped, in KiB.
func resident(t *testing.T) int {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssFile:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel does not say")
	return 0
}

func TestWhatOnlyTheStartNeededIsLetGo(t *testing.T) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	before := resident(t)
	freed, err := Unload()
	after := resident(t)
	if err != nil || freed == 0 || freed > 2*int64(len(program)) {
		t.Fatalf("%d bytes, %v", freed, err)
	}
	if after >= before {
		t.Errorf("%d KiB of files were mapped before, %d after", before, after)
	}
	if _, err := Unload(); err != nil { // and all goes on
		t.Error(err)
	}
}

func TestOnlyWhatIsAsInTheFileIsLetGo(t *testing.T) {
	smaps := `00400000-00600000 r-xp 00000000 08:01 131 /bin/holdfast
Size:               2048 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00600000-00700000 r--p 00200000 08:01 131 /bin/holdfast
Anonymous:             4 kB
00700000-00800000 rw-p 00300000 08:01 131 /bin/holdfast
Anonymous:             0 kB
00800000-00900000 r--p 00300000 08:01 131 /bin/holdfast
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 08:01 7 /lib/libc.so
Anonymous:             0 kB
bad-worse r--p 00300000 08:01 131 /bin/holdfast
Anonymous:             0 kB
`
	got, err := pristine(strings.NewReader(smaps), "/bin/holdfast")
	if err != nil || !slices.Equal(got, []span{{0x400000, 0x600000}, {0x800000, 0x900000}}) {
		t.Errorf("%v, %v", got, err)
	}
}
