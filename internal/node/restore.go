package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/coordinator"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/spec"
	"github.com/holdfast-io/holdfast/internal/state"
	"github.com/holdfast-io/holdfast/internal/wire"
	"github.com/holdfast-io/holdfast/internal/wire/link"
)

// kindRestore is the kind of operations that give a volume the content of a snapshot.
const kindRestore = "VolumeRestore"

// restore does the volume's restore operations: after the safety snapshot is there, all
// blocks that differ from the snapshot are copied from it, through the head, so that
// every replica follows. What to look at a replica on this node says, so that it takes as
// long as there are changes. It can be done again from the beginning after any crash. One that
// is canceled gives the volume what it had, from the safety snapshot, in the same way. A volume
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
		if fault.Is(err, fault.Canceled) || err != nil && a.isOver() {
			return err // the process ends, or the head was lost: whoever has the volume next begins again
		}
		if err := a.restored(e.ID, err); err != nil {
			return err
		}
	}
	return nil
}

// isOver reports whether the head has lost the volume.
func (a *attachment) isOver() (over bool) {
	h := a.head
	a.d.node.do(func() { over = h.over })
	return over
}

// byTarget is the index of operations by what they are for.
const byTarget = "target"

func operationIndexes() map[string]state.Index[*v1.Operation] {
	return map[string]state.Index[*v1.Operation]{
		byTarget: func(e state.Entry[*v1.Operation]) []string { return []string{e.Value.TargetId} },
	}
}

// restored writes how the operation has ended.
func (a *attachment) restored(id string, err error) error {
	for {
		now, getErr := state.Operations.Get(a.d.ctx, a.d.o.Store, id)
		if getErr != nil {
			return getErr
		}
		done := proto.CloneOf(now.Value)
		done.Done, done.Ended, done.Message = true, timestamppb.Now(), "restored"
		if p := done.Progress; p != nil && err == nil {
			p.DoneBytes = p.TotalBytes
		}
		if err != nil {
			done.Error, done.Message = complaint(err), "failed"
		}
		_, commitErr := a.d.o.Store.Commit(a.d.ctx, state.Operations.Replace(id, done, now.Revision))
		if !fault.Is(commitErr, fault.Busy) { // else somebody has canceled it meanwhile, too late
			return commitErr
		}
	}
}

func (a *attachment) restoreTo(e state.Entry[*v1.Operation], safety *v1.SnapshotStatus) error {
	to := a.snapStatus(e.Value.Parameters["snapshot"])
	c := &copier{a: a, op: e.ID, from: block.Generation(to.Generation), buf: host.Buffer(wire.DataMax), sums: make([]block.Sum, wire.DataBlocksMax)}
	switch {
	case a.show != nil:
		return fault.WithCure(fault.Errorf("node.restore", fault.Precondition, "the volume is attached"), "detach it first")
	case safety.Problem != "" && c.canceled():
		return errRestoreCanceled
	case safety.Problem != "":
		return fault.Errorf("node.restore", fault.Precondition, "the safety snapshot failed: %s", safety.Problem)
	case !to.Ready && !c.canceled():
		return fault.Errorf("node.restore", fault.NotFound, "the snapshot is not there")
	}
	keeps := a.snapName(e.Value.Parameters["safety"])
	a.log.Info("restoring", "generation", to.Generation, "canceled", c.canceled())
	err := error(errRestoreCanceled)
	if !c.canceled() {
		err = c.all("copying what differs from snapshot " + a.snapName(e.Value.Parameters["snapshot"]))
	}
	if errors.Is(err, errRestoreCanceled) {
		c.from, c.back = block.Generation(safety.Generation), true
		if err = c.all("canceled: copying what the volume had from snapshot " + keeps); err == nil {
			return errRestoreCanceled
		}
	}
	if err != nil {
		return fault.WithCure(fmt.Errorf("the volume has a part of both contents: %w", err),
			"restore it again, or what it had from snapshot "+keeps)
	}
	return nil
}

var errRestoreCanceled = fault.Errorf("node.restore", fault.Precondition, "it was canceled: the volume has what it had before")

// snapName returns a snapshot's name, or its id when it is gone.
func (a *attachment) snapName(id string) string {
	if e, ok := a.d.view.snapshots.Get(id); ok {
		return e.Value.Meta.GetName()
	}
	return id
}

// all makes everything alike that may differ, and says how far it is.
func (c *copier) all(what string) error {
	for from, more := block.Region(0), true; more; {
		list, next, err := c.differing(from)
		if err != nil {
			return err
		}
		for _, e := range list {
			for ; e.Count > 0; e = (block.Extent{Start: e.Start + wire.DataBlocksMax, Count: e.Count - min(e.Count, wire.DataBlocksMax)}) {
				if c.canceled() && !c.back {
					return errRestoreCanceled
				}
				c.tell(what, e.Start.Offset())
				if err := c.step(block.Extent{Start: e.Start, Count: min(e.Count, wire.DataBlocksMax)}); err != nil {
					return err
				}
			}
		}
		c.tell(what, next.Start().Offset())
		from, more = next, int(next) < block.Regions(c.a.record().Size)
	}
	return c.do(coordinator.Flush, block.Extent{}, 0)
}

// canceled reports whether somebody wants the restore to be given up.
func (c *copier) canceled() bool {
	e, ok := c.a.d.view.operations.Get(c.op)
	return ok && e.Value.Canceled
}

// tellEvery is how often a restore says how far it is.
const tellEvery = time.Second

// tell says how far it is, now and then. That it can't be said does not matter.
func (c *copier) tell(what string, offset int64) {
	now := time.Now()
	if now.Sub(c.told) < tellEvery {
		return
	}
	c.told = now
	e, ok := c.a.d.view.operations.Get(c.op)
	if !ok {
		return
	}
	next := proto.CloneOf(e.Value)
	total := c.a.record().Size
	next.Message, next.Progress = what, &v1.Progress{DoneBytes: min(offset, total), TotalBytes: total}
	ctx, cancel := context.WithTimeout(c.a.d.ctx, tellEvery)
	defer cancel()
	if _, err := c.a.d.o.Store.Commit(ctx, state.Operations.Replace(c.op, next, e.Revision)); err != nil {
		c.a.log.Debug("a restore can't say how far it is", "err", err)
	}
}

// differing returns what may differ in some regions, and where to go on. A replica that
// lies here and counts knows what was written since the snapshot; without one it is
// everything.
func (c *copier) differing(from block.Region) (list []block.Extent, next block.Region, err error) {
	n, counts := c.a.d.node, true
	err = n.wait(c.a.d.ctx, func(done func(error)) {
		r := c.a.counting()
		if counts = r != nil; !counts {
			done(nil)
			return
		}
		r.store.Changed(c.from, 0, from, changedRegions, func(l []block.Extent, at block.Region, err error) {
			list, next = l, at
			done(err)
		})
	})
	if counts || err != nil {
		return list, next, err
	}
	size := c.a.record().Size
	next = min(from+changedRegions, block.Region(block.Regions(size)))
	all := block.Extent{Start: from.Start(), Count: uint64(next-from) * block.PerRegion}
	return []block.Extent{all.Clip(block.Extent{Count: uint64(size / block.Size)})}, next, nil
}

// counting returns the replica on this node that the head counts on, or nil. The loop's.
func (a *attachment) counting() *resident {
	for _, m := range a.head.coord.Record().Members {
		if r := a.d.node.residents[m.Replica]; r != nil && m.State == spec.InSync {
			return r
		}
	}
	return nil
}

// copier gives the live generation what a snapshot has.
type copier struct {
	a    *attachment
	op   string // the operation's id
	from block.Generation
	back bool      // it was canceled, and gives the volume what it had
	told time.Time // when it said how far it is
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
