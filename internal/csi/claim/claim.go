// Package claim makes a volume this node's, or another's, for the doors that hand volumes
// to containers.
//
// A volume has one owner. Another node's claim is refused with fault.Precondition while
// the owner lives. It is overridden only when the owner's lease has ended: from then on
// the new owner's epoch keeps the old one away from the data, whatever it does.
package claim

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	holdfastv1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/api/holdfast/v1/holdfastv1connect"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/fault/rpc"
)

// API is what a claim needs of the API.
type API struct {
	Attachments holdfastv1connect.AttachmentServiceClient
	Nodes       holdfastv1connect.NodeServiceClient
}

// Attach makes a volume a device on a node, and returns when the device is there, and the
// mount if one is asked for. What is there already is success. The error is
// fault.Precondition while another node has the volume, fault.Exists when this one has it
// in another way, fault.Timeout when it takes longer than ctx allows.
func (api API) Attach(ctx context.Context, r *holdfastv1.AttachRequest) (*holdfastv1.Attachment, error) {
	const op = "claim.Attach"
	r.Wait = Wait(ctx)
	a, err := api.Attachments.Attach(ctx, r)
	if refusal := rpc.Fault(op, err); fault.Is(refusal, fault.Exists) || fault.Is(refusal, fault.Busy) || fault.Is(refusal, fault.Precondition) {
		there, getErr := api.Attachments.GetAttachment(ctx, &holdfastv1.GetAttachmentRequest{Volume: r.Volume})
		switch {
		case getErr != nil:
			return nil, refusal
		case !api.elsewhere(ctx, there, r.Node):
			if differs(there.GetSpec(), r) {
				return nil, fault.Errorf(op, fault.Exists, "%w", refusal)
			}
			return nil, refusal
		case !api.ended(ctx, holder(there)):
			return nil, fault.Errorf(op, fault.Precondition, "%w", refusal)
		}
		r.Force, r.Wait = true, Wait(ctx)
		a, err = api.Attachments.Attach(ctx, r)
	}
	if err != nil {
		return nil, rpc.Fault(op, err)
	}
	if status := a.GetStatus(); status.GetDevice() == "" || r.MountPath != "" && status.GetMountPath() != r.MountPath {
		return nil, fault.Errorf(op, fault.Timeout, "volume %s is still being attached%s", r.Volume, reasons(status.GetConditions()))
	}
	return a, nil
}

// differs reports whether a volume is attached in another way than asked for.
func differs(have *holdfastv1.AttachmentSpec, r *holdfastv1.AttachRequest) bool {
	return have.GetReadOnly() != r.ReadOnly || have.GetMountPath() != r.MountPath || have.GetSnapshotId() != ""
}

// reasons returns what the first condition says, after a colon.
func reasons(conditions []*holdfastv1.Condition) string {
	for _, c := range conditions {
		if c.GetMessage() != "" {
			return ": " + c.Message
		}
	}
	return ""
}

// Here returns a volume's attachment if it is on the node, named by name or id, and nil if
// it is on none or on another.
func (api API) Here(ctx context.Context, volume, node string) (*holdfastv1.Attachment, error) {
	a, err := api.Attachments.GetAttachment(ctx, &holdfastv1.GetAttachmentRequest{Volume: volume})
	if err := rpc.Fault("claim.Here", err); err != nil {
		if fault.Is(err, fault.NotFound) {
			return nil, nil
		}
		return nil, err
	}
	if api.elsewhere(ctx, a, node) {
		return nil, nil
	}
	return a, nil
}

// Detach takes a volume off a node, if it is there; an empty node is any. It returns when
// the device is gone, or when its node is known to be.
func (api API) Detach(ctx context.Context, volume, node string) error {
	const op = "claim.Detach"
	a, err := api.Attachments.GetAttachment(ctx, &holdfastv1.GetAttachmentRequest{Volume: volume})
	if err := rpc.Fault(op, err); err != nil {
		if fault.Is(err, fault.NotFound) {
			return nil
		}
		return err
	}
	if node != "" && api.elsewhere(ctx, a, node) {
		return nil
	}
	on := holder(a)
	_, err = api.Attachments.Detach(ctx, &holdfastv1.DetachRequest{Volume: volume, Node: on, Force: api.ended(ctx, on), Wait: Wait(ctx)})
	if err := rpc.Fault(op, err); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// holder returns the id of the node that an attachment is on, or was on last.
func holder(a *holdfastv1.Attachment) string {
	if node := a.GetSpec().GetNodeId(); node != "" {
		return node
	}
	return a.GetStatus().GetNodeId()
}

// elsewhere reports whether an attachment is on another node than the one, named by name
// or id.
func (api API) elsewhere(ctx context.Context, a *holdfastv1.Attachment, node string) bool {
	if holder(a) == node {
		return false
	}
	n, err := api.Nodes.GetNode(ctx, &holdfastv1.GetNodeRequest{Node: node})
	return err != nil || n.GetMeta().GetId() != holder(a)
}

// ended reports whether a node is known to be gone: its lease has ended, or it is no node
// of the cluster any more.
func (api API) ended(ctx context.Context, node string) bool {
	n, err := api.Nodes.GetNode(ctx, &holdfastv1.GetNodeRequest{Node: node})
	if err != nil {
		return fault.Is(rpc.Fault("claim", err), fault.NotFound)
	}
	return n.GetStatus().GetState() == holdfastv1.NodeState_NODE_STATE_DOWN
}

// Waits of calls to the API for what the cluster has to do.
const (
	waitDefault = 30 * time.Second
	waitMax     = 2 * time.Minute
	waitMargin  = time.Second // so that the answer arrives before the caller gives up
)

// Wait returns how long the API may take so that the caller still hears the answer.
func Wait(ctx context.Context) *durationpb.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return durationpb.New(waitDefault)
	}
	left := time.Until(deadline)
	return durationpb.New(min(max(left-waitMargin, left/2), waitMax))
}
