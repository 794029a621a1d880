package fault_test

import (
	"errors"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestDescribeSplitsWhatHappenedFromTheCure(t *testing.T) {
	cause := fault.Errorf("disk.Write", fault.NoSpace, "the disk is full")
	err := fault.Wrap("store.Write", fault.WithCure(cause, "free some space"))
	if !fault.Is(err, fault.NoSpace) {
		t.Errorf("kind is %v: a cure must not hide it", fault.KindOf(err))
	}
	what, cure := fault.Describe(err)
	if what != "the disk is full" || cure != "free some space" {
		t.Errorf("Describe = %q, %q", what, cure)
	}
	if want := "store.Write: disk.Write: the disk is full; free some space"; err.Error() != want {
		t.Errorf("Error = %q, want %q", err.Error(), want)
	}
}

func TestDescribeNamesTheVolumeAndPrefersTheOutermostCure(t *testing.T) {
	volume := block.VolumeID{1}
	err := fault.WithCure(fault.E("a", fault.Media, volume, fault.WithCure(errors.New("broken"), "inner")), "outer")
	what, cure := fault.Describe(err)
	if want := "volume " + volume.String() + ": broken"; what != want || cure != "outer" {
		t.Errorf("Describe = %q, %q", what, cure)
	}
	if what, cure := fault.Describe(fault.E("a", fault.Busy, block.VolumeID{}, nil)); what != "busy" || cure != "" {
		t.Errorf("Describe of a bare kind = %q, %q", what, cure)
	}
}
