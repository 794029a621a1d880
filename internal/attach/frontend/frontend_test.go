package frontend

import (
	"testing"

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
		{Name: "a", Meta: `{"kind":"fuse","version":1,"phase":"ready","volume":"` + id.String() + `"}`},
		{Name: "b", Meta: `{"kind":"ublk","version":1,"ready":true,"volume":"` + id.String() + `"}`, Clean: true},
		{Name: "c", Meta: `{"kind":"nbd","version":1,"volume":"` + id.String() + `"}`, Served: true},
		{Name: "half", Meta: `{"kind":"fuse","version":1,"phase":"starting","volume":"` + id.String() + `"}`},
		{Name: "newer", Meta: `{"kind":"fuse","version":99,"phase":"ready","volume":"` + id.String() + `"}`},
		{Name: "odd", Meta: `{`},
	}
	got := Kept(entries)
	want := []Device{{Name: "a", Kind: FUSE, Volume: id}, {Name: "b", Kind: Ublk, Volume: id, Clean: true}, {Name: "c", Kind: NBD, Volume: id, Served: true}}
	if len(got) != len(want) {
		t.Fatalf("kept: %+v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("kept %+v, want %+v", got[i], want[i])
		}
	}
}
