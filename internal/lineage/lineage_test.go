package lineage

import (
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
)

type gens = []block.Generation

func TestWhatACopyThatWasAwayLacks(t *testing.T) {
	volume := Line{Snapshots: gens{2, 5, 7}, Live: 9}
	for _, c := range []struct {
		name          string
		copy          Line
		gone, missing gens
		diverged      bool
	}{
		{"nothing happened", Line{gens{2, 5, 7}, 9}, nil, nil, false},
		{"empty", Line{nil, 1}, nil, gens{2, 5, 7}, false},
		{"one snapshot behind", Line{gens{2, 5}, 6}, nil, gens{7}, false},
		{"its snapshot was deleted", Line{gens{2, 3}, 4}, gens{3}, gens{5, 7}, false},
		{"its live generation became a snapshot", Line{gens{2}, 5}, nil, gens{5, 7}, false},
		{"ahead of the volume", Line{gens{2, 5, 7}, 10}, nil, nil, true},
		{"lacks an old one", Line{gens{5}, 6}, nil, gens{7}, true},
	} {
		if got := Surplus(volume, c.copy); !slices.Equal(got, c.gone) {
			t.Errorf("%s: surplus %v, want %v", c.name, got, c.gone)
		}
		if got := Missing(volume, c.copy); !slices.Equal(got, c.missing) {
			t.Errorf("%s: missing %v, want %v", c.name, got, c.missing)
		}
		if got := Diverged(volume, c.copy); got != c.diverged {
			t.Errorf("%s: diverged %v", c.name, got)
		}
	}
}
