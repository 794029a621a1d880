package placement_test

import (
	"testing"

	"github.com/holdfast-io/holdfast/internal/placement/placementtest"
)

func TestAThousandNodesFillEvenlyAndLoseAZone(t *testing.T) {
	r, err := placementtest.Simulate(placementtest.Options{Nodes: 1000, Volumes: 100000, Zones: 5, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if r.UsedMaxToMean > 1.10 {
		t.Errorf("the fullest pool has %.3f of the mean in use", r.UsedMaxToMean)
	}
}
