package server

import (
	"context"
	"time"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
)

// lookEvery is how often it is looked whether a node that does not answer is gone.
const lookEvery = 200 * time.Millisecond

// attachVacated attaches a volume once no other node uses it.
func (s *attachments) attachVacated(ctx context.Context, wait time.Duration, volume state.Entry[*v1.Volume], want *v1.AttachmentSpec) error {
	end := time.Now().Add(wait)
	for range attemptsMax {
		t, err := s.vacated(ctx, time.Until(end), volume, want)
		if err != nil {
			return err
		}
		err = s.attach(ctx, volume, want, t)
		if t.from == "" || !fault.Is(err, fault.Busy) {
			return err
		}
		// The node that had it came back, or its replicas changed.
		if volume, err = s.again(ctx, volume.ID); err != nil {
			return err
		}
	}
	return fault.Errorf("server", fault.Busy, "volume %s was not attached: %w", volume.Value.Meta.Name, errTooBusy)
}

// vacated waits, for as long as a caller does, until no other node uses a volume: it gave
// it back, or it is gone for all that is known. A node that has the volume and answers is
// left in peace, and the caller refused. From one that is gone the volume may be taken.
func (s *attachments) vacated(ctx context.Context, wait time.Duration, volume state.Entry[*v1.Volume], want *v1.AttachmentSpec) (t taking, err error) {
	limit := time.NewTimer(wait)
	defer limit.Stop()
	for {
		changed := s.view.Changed()
		holder, leaves := s.holder(volume.ID)
		if holder == "" || holder == want.NodeId {
			return t, nil
		}
		answers := s.answers(ctx, holder)
		if answers && !leaves {
			return t, nil // attach refuses
		}
		if !answers {
			if while := s.gone(ctx, volume.ID, holder); while != nil {
				return taking{from: holder, while: while}, nil
			}
		}
		select {
		case <-changed:
		case <-time.After(lookEvery):
		case <-limit.C:
			if leaves {
				return t, nil // attach refuses
			}
			return t, fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is attached to node %s, which does not answer, but may be using it", volume.Value.Meta.Name, s.view.nodeName(holder)),
				"try again in a moment; or take it from that node, whose users then get I/O errors: add --force")
		case <-ctx.Done():
			return t, state.Ended("server", ctx)
		}
	}
}

// holder returns the node that a volume is attached to, or that is not done with it yet.
func (s *attachments) holder(volume string) (node string, leaves bool) {
	if e, ok := s.view.attachments.Get(volume); ok {
		return e.Value.GetSpec().GetNodeId(), false
	}
	if had := s.view.device(volume); had != nil {
		return had.NodeId, true
	}
	return "", false
}

// answers reports whether the data process of a node answers this one.
func (s *attachments) answers(ctx context.Context, node string) bool {
	if s.options.Leases == nil {
		return s.view.up(node)
	}
	address := value(s.view.nodeStatuses, node).GetDataAddress()
	return address != "" && s.options.Leases.Answers(ctx, node, address)
}

// gone returns what must be true for a node that does not answer to have lost a volume;
// nil while it may be using it. An owner serves only while every in-sync replica has
// granted it a lease, so the word of one is enough. Where none can be asked, the
// node's own lease decides, which takes longer to end.
func (s *attachments) gone(ctx context.Context, volume, node string) []state.Op {
	if s.options.Leases != nil {
		record, err := state.Records.Get(ctx, s.store, volume)
		if err != nil {
			return nil
		}
		for _, m := range record.Value.Members {
			if m.NodeId != s.options.NodeID || spec.ReplicaState(m.State) != spec.InSync {
				continue
			}
			vacant, err := s.options.Leases.Vacant(ctx, volume)
			switch {
			case err == nil && vacant:
				return []state.Op{state.Records.Require(volume, record.Revision)}
			case err == nil:
				return nil
			}
		}
	}
	if s.view.up(node) {
		return nil
	}
	return []state.Op{state.Alive.Require(node, 0)}
}
