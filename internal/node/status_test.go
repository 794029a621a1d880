package node

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
)

func TestProgressSaysHowLongItTakesYet(t *testing.T) {
	for _, c := range []struct {
		sync coordinator.Sync
		want *v1.Progress
	}{
		{coordinator.Sync{Regions: 100, RegionsLeft: 100, Began: 5 * time.Second}, &v1.Progress{TotalBytes: 100 * block.RegionSize}},
		{coordinator.Sync{Regions: 100, RegionsLeft: 75, Began: 5 * time.Second},
			&v1.Progress{TotalBytes: 100 * block.RegionSize, DoneBytes: 25 * block.RegionSize, BytesPerSecond: 5 * block.RegionSize, Left: durationpb.New(15 * time.Second)}},
		{coordinator.Sync{Regions: 1, RegionsLeft: 2}, &v1.Progress{TotalBytes: 2 * block.RegionSize}}, // more were written meanwhile
	} {
		if got := progressOf(c.sync, 10*time.Second); !proto.Equal(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.sync, got, c.want)
		}
	}
}
