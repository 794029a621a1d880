package node

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// kindRestore is the kind of operations that give a volume the content of a snapshot.
const kindRestore = "VolumeRestore"

// restore does the volume's restore operations: after the safety snapshot is there, all
// blocks that differ from the snapshot are copied from it, through the head, so that
// every replica follows. It can be done again from the beginning after any crash. A volume
// with a device is not restored: its filesystem would be changed under its users.
func (a *attachment) restore() error {
	for _, e := range a.d.view.operations.ByIndex(byTarget, a.id) {
		if e.Value.Kind != kindRestore || e.Value.Done {
			continue
		}
		safety := a.snapStatus(e.Value.Parameters["safety"])
		if !safety.Ready && safety.Problem == "" {
			return nil // it is taken first
		}
		err := a.restoreTo(e, safety)
		if fault.Is(err, fault.Canceled) {
			return err // the process ends, or the head was lost: again
		}
		if err := a.restored(e, err); err != nil {
			return err
		}
	}
	return nil
}

// byTarget is the index of operations by what they are for.
const byTarget = "target"

func operationIndexes() map[string]state.Index[*v1.Operation] {
	return map[string]state.Index[*v1.Operation]{
		byTarget: func(e state.Entry[*v1.Operation]) []string { return []string{e.Value.TargetId} },
	}
}

// restored writes how the operation has ended.
func (a *attachment) restored(e state.Entry[*v1.Operation], err error) error {
	done := proto.CloneOf(e.Value)
	done.Done, done.Ended, done.Message = true, timestamppb.Now(), "restored"
	if err != nil {
		done.Error, done.Message = err.Error(), "failed"
	}
	_, commitErr := a.d.o.Store.Commit(a.d.ctx, state.Operations.Replace(e.ID, done, e.Revision))
	return commitErr
}

func (a *attachment) restoreTo(e state.Entry[*v1.Operation], safety *v1.SnapshotStatus) error {
	to := a.snapStatus(e.Value.Parameters["snapshot"])
	switch {
	case e.Value.Canceled:
		return fault.Errorf("node.restore", fault.Precondition, "it was canceled before it began")
	case a.show != nil:
		return fault.WithCure(fault.Errorf("node.restore", fault.Precondition, "the volume is attached"), "detach it first")
	case safety.Problem != "":
		return fault.Errorf("node.restore", fault.Precondition, "the safety snapshot failed: %s", safety.Problem)
	case !to.Ready:
		return fault.Errorf("node.restore", fault.NotFound, "the snapshot is not there")
	}
	a.log.Info("restoring", "generation", to.Generation)
	c := &copier{a: a, from: block.Generation(to.Generation), buf: host.Buffer(wire.DataMax), sums: make([]block.Sum, wire.DataBlocksMax)}
	blocks := uint64(a.record().Size / block.Size)
	for at := uint64(0); at < blocks; at += wire.DataBlocksMax {
		if err := c.step(block.Extent{Start: block.Index(at), Count: min(wire.DataBlocksMax, blocks-at)}); err != nil {
			return err
		}
	}
	return c.do(coordinator.Flush, block.Extent{}, 0)
}

// copier gives the live generation what a snapshot has.
type copier struct {
	a    *attachment
	from block.Generation
	buf  []byte
	sums []block.Sum
	live []block.Sum
}

// step makes one extent alike: the part of it that differs is written.
func (c *copier) step(e block.Extent) error {
	n := int(e.Count)
	if err := c.do(coordinator.Read, e, 0); err != nil {
		return err
	}
	c.live = append(c.live[:0], c.sums[:n]...)
	if err := c.do(coordinator.Read, e, c.from); err != nil {
		return err
	}
	first, last := n, -1
	for i := range n {
		if c.live[i] != c.sums[i] {
			first, last = min(first, i), i
		}
	}
	if last < 0 {
		return nil
	}
	part := block.Extent{Start: e.Start + block.Index(first), Count: uint64(last - first + 1)}
	for _, s := range c.sums[first : last+1] {
		if s != block.ZeroSum {
			return c.write(part, first)
		}
	}
	return c.do(coordinator.Zero, part, 0)
}

// write writes the part of the buffer that begins at block first: a copy of it, because
// a message to a replica that was left behind may be on its way for long.
func (c *copier) write(e block.Extent, first int) error {
	data := host.Buffer(int(e.Bytes()))
	copy(data, c.buf[first*block.Size:])
	return c.submit(&coordinator.Request{Op: coordinator.Write, Extent: e, Data: data, Sums: slices.Clone(c.sums[first : first+int(e.Count)])})
}

func (c *copier) do(op coordinator.Op, e block.Extent, g block.Generation) error {
	q := &coordinator.Request{Op: op, Extent: e, Generation: g}
	if op == coordinator.Read {
		q.Data, q.Sums = c.buf[:e.Bytes()], c.sums[:e.Count]
	}
	return c.submit(q)
}

// submit waits until a request is complete.
func (c *copier) submit(q *coordinator.Request) error {
	done := make(chan error, 1)
	h := c.a.head
	q.User = waiter(func(q *coordinator.Request) { done <- q.Err })
	if !c.a.d.node.loop.Post(func() { h.submit(q) }) {
		return fault.Errorf("node.restore", fault.Canceled, "the data process ends")
	}
	select {
	case err := <-done:
		return err
	case <-c.a.d.ctx.Done():
		return fault.Errorf("node.restore", fault.Canceled, "%w", context.Cause(c.a.d.ctx))
	}
}

// waiter is the user of a request whose memory is not used again.
type waiter func(*coordinator.Request)

func (w waiter) completed(q *coordinator.Request) { w(q) }
func (w waiter) held() link.Holder                { return nil }
