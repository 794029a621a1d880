package server_test

import (
	"context"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/server/servertest"
)

// leases is what a test says of them.
type leases struct {
	answers, vacant, none atomic.Bool
	asked                 chan bool // has a value when somebody asked whether it is vacant
}

func (l *leases) Answers(context.Context, string, string) bool { return l.answers.Load() }

func (l *leases) Vacant(context.Context, string) (bool, error) {
	select {
	case l.asked <- true:
	default:
	}
	if l.none.Load() {
		return false, fault.Errorf("test", fault.NotFound, "there is no replica here")
	}
	return l.vacant.Load(), nil
}

// contested starts a cluster whose server is on node 2, with a volume on node 1.
func contested(t *testing.T) (*servertest.Cluster, *leases) {
	l := &leases{asked: make(chan bool, 1)}
	l.answers.Store(true)
	c := servertest.Start(t, servertest.Options{Leases: l, NodeID: servertest.NodeID(2)})
	c.Stage.Nodes(2)
	volume(t, c, "db", 2)
	_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n1", Wait: patience})
	c.Must(err)
	return c, l
}

func TestAVolumeIsNotTakenFromANodeThatAnswers(t *testing.T) {
	c, _ := contested(t)
	_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2", Wait: patience}) // does not wait
	refused(t, err, connect.CodeFailedPrecondition, "--force")
}

func TestAnAttachWaitsUntilTheLeasesOfADeadNodeHaveEnded(t *testing.T) {
	c, l := contested(t)
	l.answers.Store(false)
	_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2", Wait: durationpb.New(1e6)})
	refused(t, err, connect.CodeFailedPrecondition, "--force")
	c.Stage.Down(1) // which says less than the replica does
	_, err = c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2"})
	refused(t, err, connect.CodeFailedPrecondition, "--force")
	done := make(chan error, 1)
	<-l.asked
	go func() {
		_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2", Wait: patience})
		done <- err
	}()
	<-l.asked
	l.vacant.Store(true)
	c.Must(<-done)
	a, err := c.Client.Attachments.GetAttachment(c.Ctx, &v1.GetAttachmentRequest{Volume: "db"})
	if err != nil || a.Spec.NodeId != servertest.NodeID(2) {
		t.Errorf("it is attached as %v, %v", a, err)
	}
}

func TestWhereNoReplicaCanBeAskedANodesOwnLeaseDecides(t *testing.T) {
	c, l := contested(t)
	l.answers.Store(false)
	l.none.Store(true)
	_, err := c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2", Wait: durationpb.New(1e6)})
	refused(t, err, connect.CodeFailedPrecondition, "--force")
	c.Stage.Down(1)
	_, err = c.Client.Attachments.Attach(c.Ctx, &v1.AttachRequest{Volume: "db", Node: "n2", Wait: patience})
	c.Must(err)
}
