package server_test

import (
	"testing"

	"connectrpc.com/connect"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/state/statepb"
)

// A volume whose device can't grow while it is attached grows all the same, and who asked
// for it is told at once what remains to be done.
func TestGrowthThatADeviceCantFollowIsSaidAtOnce(t *testing.T) {
	c := start(t, 1)
	v := volume(t, c, "db", 1)
	a, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", Wait: patience})
	c.Must(err)
	c.Stage.Still()
	size := v.Spec.SizeBytes + 1<<30
	c.Stage.Record(v.Meta.Id, func(r *statepb.Record) { r.SizeBytes = size })
	a.Status.Conditions = []*v1.Condition{{Type: "Grown", Reason: "DeviceCantGrow", Message: "it can't"}}
	c.Commit(state.AttachStatuses.Put(v.Meta.Id, a.Status))
	_, err = c.Client.Volumes.UpdateVolume(c.Ctx, &v1.UpdateVolumeRequest{Volume: "db", SizeBytes: &size, Wait: patience})
	refused(t, err, connect.CodeFailedPrecondition, "holdfast volume detach db")
}
