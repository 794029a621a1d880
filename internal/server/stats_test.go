package server_test

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
	"github.com/holdfast-io/holdfast/internal/state"
)

// devices are those of a node that has one volume.
type devices struct{ has string }

func (d *devices) Stats(_ context.Context, volume string, over time.Duration) (*v1.VolumeStats, error) {
	if volume != d.has {
		return nil, fault.Errorf("test", fault.NotFound, "it is not attached here")
	}
	return &v1.VolumeStats{VolumeId: volume, Over: durationpb.New(over)}, nil
}

func TestStatsAreAskedOfTheNodeThatHasTheDevice(t *testing.T) {
	d := &devices{}
	c := servertest.Start(t, servertest.Options{NodeID: servertest.NodeID(1), Devices: d})
	c.Stage.Nodes(2)
	d.has = volume(t, c, "here", 1).Meta.Id
	get := func(volume string, over time.Duration) (*v1.VolumeStats, error) {
		return c.Client.Volumes.GetVolumeStats(c.Ctx, &v1.GetVolumeStatsRequest{Volume: volume, Over: durationpb.New(over)})
	}
	_, err := get("here", 0)
	refused(t, err, connect.CodeFailedPrecondition, "holdfast volume attach here")
	attach := func(name, node string) {
		_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: name, Node: node, Wait: patience})
		c.Must(err)
	}
	attach("here", "n1")
	s, err := get("here", time.Second)
	c.Must(err)
	if s.VolumeId != d.has || s.Over.AsDuration() != time.Second {
		t.Errorf("the answer is %v", s)
	}
	_, err = get("here", time.Hour)
	refused(t, err, connect.CodeInvalidArgument, "up to a minute")
	for name, node := range map[string]string{"there": "n2", "not-now": "n1"} { // n2 has no address; n1 said that it has the other
		volume(t, c, name, 1)
		attach(name, node)
		_, err = get(name, 0)
		refused(t, err, connect.CodeUnavailable, "")
	}
}

// What a node said last may be of a device that has died with the node's processes: an
// attach of what is attached asks it to look, and waits for its word.
func TestAnAttachOfWhatIsAttachedWaitsUntilItsNodeHasLooked(t *testing.T) {
	c := start(t, 1)
	id := volume(t, c, "db", 1).Meta.Id
	ask := &v1.AttachRequest{Volume: "db", Node: "n1", Wait: patience}
	first, err := c.Client.Attachments.Attach(c.Ctx, ask)
	c.Must(err)
	c.Stage.Still()
	_, err = c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", Wait: durationpb.New(1)})
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("a node that says nothing: %v", err)
	}
	revision := func() int64 {
		e, err := state.Attachments.Get(c.Ctx, c.Store, id)
		c.Must(err)
		return int64(e.Revision)
	}
	before := revision()
	answer := make(chan error, 1)
	go func() {
		_, err := c.Client.Attachments.Attach(c.Ctx, ask)
		answer <- err
	}()
	until(t, "the node was asked once more", func() bool { return revision() > before })
	said := first.Status
	said.OfRevision = revision()
	c.Commit(state.AttachStatuses.Put(id, said))
	select {
	case err := <-answer:
		c.Must(err)
	case <-time.After(servertest.Patience):
		t.Fatal("the node's word is not heard")
	}
}
