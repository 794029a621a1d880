package frontend

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach/errand"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestBestThatIsThereIsChosen(t *testing.T) {
	none := fault.Errorf("test", fault.Unsupported, "not here")
	for _, test := range []struct {
		has  []Kind
		want Kind
	}{{[]Kind{NBD, Ublk, FUSE}, FUSE}, {[]Kind{NBD, Ublk}, Ublk}, {[]Kind{NBD}, NBD}, {nil, Auto}} {
		got, err := first(func(k Kind) error {
			for _, has := range test.has {
				if has == k {
					return nil
				}
			}
			return none
		})
		if got != test.want || (err == nil) != (len(test.has) > 0) || err != nil && !fault.Is(err, fault.Unsupported) {
			t.Errorf("of %q %q was chosen (%v)", test.has, got, err)
		}
	}
}

func TestKindsAreRead(t *testing.T) {
	for s, want := range map[string]Kind{"": Auto, "auto": Auto, "fuse": FUSE, "ublk": Ublk, "nbd": NBD} {
		if got, err := Parse(s); err != nil || got != want {
			t.Errorf("%q is %q (%v)", s, got, err)
		}
	}
	if _, err := Parse("iscsi"); !fault.Is(err, fault.Invalid) {
		t.Errorf("iscsi: %v", err)
	}
}

func TestEachDeviceIsTakenOverByItsKind(t *testing.T) {
	id := block.VolumeID{1}
	entries := []keeper.Entry{
		{Name: "c", Meta: `{"kind":"nbd","version":1,"block_size":512,"volume":"` + id.String() + `"}`},
		{Name: "a", Meta: `{"kind":"fuse","version":1,"phase":"ready","read_only":true,"volume":"` + id.String() + `"}`},
		{Name: "b", Meta: `{"kind":"ublk","version":1,"ready":true,"volume":"` + id.String() + `"}`},
		{Name: "half", Meta: `{"kind":"fuse","version":1,"phase":"starting","volume":"` + id.String() + `"}`},
		{Name: "newer", Meta: `{"kind":"fuse","version":99,"phase":"ready","volume":"` + id.String() + `"}`},
		{Name: "odd", Meta: `{`},
	}
	got := Left(entries)
	if len(got) != 3 || got[0].Kind != FUSE || got[1].Kind != Ublk || got[2].Kind != NBD {
		t.Fatalf("left: %+v", got)
	}
	a, c := got[0].Options, got[2].Options
	if a.Name != "a" || a.Volume != id || !a.ReadOnly || c.Name != "c" || c.BlockSize != 512 {
		t.Errorf("left: %+v", got)
	}
}

// On a machine without devices of ours there is nothing to sweep or to abort.
func TestNothingIsLeftToSweep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("devices need root")
	}
	l := Leftovers{Node: block.NodeID{0x5e, 0xed}, LinkDir: t.TempDir(), Errand: errand.Command{"/bin/false"}}
	link := filepath.Join(l.LinkDir, "vol")
	if err := os.Symlink("/dev/no-device-of-ours", link); err != nil {
		t.Fatal(err)
	}
	if err := l.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Readlink(link); err != nil {
		t.Errorf("a link that is no business of ours: %v", err)
	}
	if err := l.Abort(t.Context(), "vol"); !fault.Is(err, fault.NotFound) {
		t.Errorf("abort of nothing: %v", err)
	}
}
