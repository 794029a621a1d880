package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/state"
)

// attachments is the AttachmentService.
type attachments struct{ *Server }

// Attach makes a volume a device on a node.
func (s *attachments) Attach(ctx context.Context, r *v1.AttachRequest) (*v1.Attachment, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	volume, err := s.usableVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	want, err := s.wanted(ctx, r, volume.ID)
	if err != nil {
		return nil, err
	}
	if r.Force {
		err = s.attach(ctx, volume, want, taking{force: true})
	} else {
		err = s.attachVacated(ctx, wait, volume, want)
	}
	if err != nil {
		return nil, err
	}
	err = s.waitFor(ctx, wait, fmt.Sprintf("volume %s is not attached to node %s", volume.Value.Meta.Name, s.view.nodeName(want.NodeId)),
		func() (bool, string, error) { return s.attachedYet(volume.ID, want) })
	if err != nil {
		return nil, err
	}
	return s.view.attachment(volume.ID), nil
}

// wanted makes the spec of what is asked for.
func (s *attachments) wanted(ctx context.Context, r *v1.AttachRequest, volume string) (*v1.AttachmentSpec, error) {
	node, err := s.findNode(ctx, cmp.Or(r.Node, s.options.NodeID))
	if err != nil {
		return nil, fault.WithField(err, "node")
	}
	if err := oneOf("frontend", r.Frontend, "auto", "fuse", "ublk", "nbd", frontendExport); err != nil {
		return nil, err
	}
	want := &v1.AttachmentSpec{NodeId: node.ID, ReadOnly: r.ReadOnly, Frontend: r.Frontend, MountPath: r.MountPath, MountOptions: r.MountOptions, By: who(ctx).Subject}
	if want.Frontend == "auto" {
		want.Frontend = ""
	}
	if err := exportWanted(r, want); err != nil {
		return nil, err
	}
	if r.MountPath != "" {
		if err := checkPath("mount_path", r.MountPath); err != nil {
			return nil, err
		}
	} else if len(r.MountOptions) > 0 {
		return nil, invalid("mount_path", "say where to mount, or leave the options out", "there are options but no mount")
	}
	if r.Snapshot != "" {
		snap, err := s.findSnapshot(ctx, r.Snapshot)
		switch {
		case err != nil:
			return nil, fault.WithField(err, "snapshot")
		case snap.Value.GetSpec().GetVolumeId() != volume:
			return nil, invalid("snapshot", "name one of this volume's snapshots", "%s is of another volume", r.Snapshot)
		}
		want.SnapshotId, want.ReadOnly = snap.ID, true
	}
	return want, nil
}

// taking says from whom a volume may be taken.
type taking struct {
	force bool       // from anybody
	from  string     // from this node
	while []state.Op // only while this is true; if not, that is fault.Busy
}

func (t taking) may(from string) bool { return t.force || t.from != "" && t.from == from }

// attach writes what is wanted, unless it is so, or somebody else has the volume.
func (s *attachments) attach(ctx context.Context, volume state.Entry[*v1.Volume], want *v1.AttachmentSpec, t taking) error {
	for range attemptsMax {
		have, err := state.Attachments.Get(ctx, s.store, volume.ID)
		var op state.Op
		switch {
		case fault.Is(err, fault.NotFound):
			if err := s.busyDevice(volume, want, t); err != nil {
				return err
			}
			if err := s.fitFor(want); err != nil {
				return err
			}
			op = state.Attachments.Create(volume.ID, &v1.Attachment{VolumeId: volume.ID, Spec: want})
		case err != nil:
			return unreachableIf(err)
		case sameAttachment(want, have.Value.GetSpec()):
			if !s.said(volume.ID) {
				return s.view.attachments.Reach(ctx, have.Revision)
			}
			// The same once more, so that its node looks and says how it is: what it said last
			// may be of a device that has ended with it since.
			at, err := s.commit(ctx, append(t.while, state.Attachments.Replace(volume.ID, have.Value, have.Revision))...)
			switch {
			case fault.Is(err, fault.Busy) && len(t.while) == 0:
				continue
			case err != nil:
				return err
			}
			return s.view.attachments.Reach(ctx, at)
		default:
			if err := s.mayReplace(volume, have.Value.GetSpec(), want, t); err != nil {
				return err
			}
			op = state.Attachments.Replace(volume.ID, &v1.Attachment{VolumeId: volume.ID, Spec: want}, have.Revision)
		}
		at, err := s.commit(ctx, append(t.while, op, state.Volumes.Require(volume.ID, volume.Revision),
			s.event(ctx, state.KindVolume, volume.Value.Meta, "AttachAsked", "it is to be attached to node %s", s.view.nodeName(want.NodeId)))...)
		if fault.Is(err, fault.Busy) && len(t.while) == 0 {
			if volume, err = s.again(ctx, volume.ID); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		return s.view.attachments.Reach(ctx, at)
	}
	return fault.Errorf("server", fault.Busy, "volume %s was not attached: %w", volume.Value.Meta.Name, errTooBusy)
}

// said reports whether a node has said how it did with a volume's attachment, well or not.
func (s *attachments) said(volume string) bool {
	switch s.view.device(volume).GetState() {
	case v1.AttachmentState_ATTACHMENT_STATE_ATTACHED, v1.AttachmentState_ATTACHMENT_STATE_FAILED:
		return true
	}
	return false
}

// again reads a volume that changed meanwhile.
func (s *Server) again(ctx context.Context, id string) (state.Entry[*v1.Volume], error) {
	e, err := state.Volumes.Get(ctx, s.store, id)
	if err != nil {
		return e, unreachableIf(err)
	}
	return e, usable(e.Value)
}

func unreachableIf(err error) error {
	if fault.Is(err, fault.Unavailable) {
		return unreachable(err)
	}
	return err
}

// sameAttachment reports whether what there is, is what is wanted, whoever wants it.
func sameAttachment(want, have *v1.AttachmentSpec) bool {
	a, b := clone(want), clone(have)
	a.By, b.By = "", ""
	if a.Frontend == "" { // whichever it is, then
		b.Frontend = ""
	}
	return proto.Equal(a, b)
}

// fitFor refuses nodes that can't attach anything now.
func (s *attachments) fitFor(want *v1.AttachmentSpec) error {
	name := s.view.nodeName(want.NodeId)
	switch {
	case !s.view.up(want.NodeId):
		return fault.WithField(fault.WithCure(fault.Errorf("server", fault.Unavailable, "node: %s is down", name), "start it, or choose another: holdfast node list"), "node")
	case value(s.view.nodes, want.NodeId).GetSpec().GetRemoved():
		return invalid("node", "choose another: holdfast node list", "%s is being removed", name)
	}
	return nil
}

// busyDevice refuses to attach while the node that had the volume is not done with it,
// but on the same node, which puts things in their order.
func (s *attachments) busyDevice(volume state.Entry[*v1.Volume], want *v1.AttachmentSpec, t taking) error {
	had := s.view.device(volume.ID)
	if had == nil || had.NodeId == want.NodeId || t.may(had.NodeId) {
		return nil
	}
	return fault.WithCure(fault.Errorf("server", fault.Busy, "volume %s is still being detached from node %s", volume.Value.Meta.Name, s.view.nodeName(had.NodeId)),
		"try again in a moment; when that node is gone, add --force")
}

// mayReplace refuses to take a volume from who has it.
func (s *attachments) mayReplace(volume state.Entry[*v1.Volume], have, want *v1.AttachmentSpec, t taking) error {
	name, on := volume.Value.Meta.Name, s.view.nodeName(have.NodeId)
	switch {
	case have.NodeId != want.NodeId && !t.may(have.NodeId):
		return fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is attached to node %s", name, on),
			"detach it there: holdfast volume detach "+name+"; or take it from that node, whose users then get I/O errors: add --force")
	case have.NodeId == want.NodeId && !t.force:
		return fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is attached to node %s in another way: %s", name, on, joined(differences(want.ProtoReflect(), have.ProtoReflect(), ""))),
			"detach it first: holdfast volume detach "+name)
	}
	return s.fitFor(want)
}

// reasonAborted is of the condition by which a node says that it is done with an abort.
const reasonAborted = "Aborted"

// attachedYet reports whether the device, and the mount, that are wanted are there.
func (s *attachments) attachedYet(volume string, want *v1.AttachmentSpec) (bool, string, error) {
	a := s.view.attachment(volume)
	if a.GetSpec() == nil || a.Spec.NodeId != want.NodeId {
		return false, "", fault.Errorf("server", fault.Precondition, "somebody detached it meanwhile")
	}
	why := words(a.Status.Conditions, "its node is at it")
	if of := a.Status.OfRevision; of != 0 && of < a.Revision && s.view.up(want.NodeId) {
		return false, "its node has not looked at it yet", nil
	}
	switch a.Status.State {
	case v1.AttachmentState_ATTACHMENT_STATE_ATTACHED:
		if a.Status.MountPath == want.MountPath {
			return true, "", nil
		}
		if want.MountPath != "" && a.Status.MountRefused == want.MountPath {
			return false, "", fault.WithCure(fault.Errorf("server", fault.Precondition, "it is attached, but not mounted at %s: %s", want.MountPath, why),
				"mend what the message says; the node tries again by itself, until the volume is unmounted or detached")
		}
		return false, "its filesystem is not mounted yet: " + why, nil
	case v1.AttachmentState_ATTACHMENT_STATE_FAILED:
		return false, "", fault.WithCure(fault.Errorf("server", fault.Precondition, "node %s can't attach it: %s", s.view.nodeName(want.NodeId), why),
			"mend what the message says; the node tries again by itself, until the volume is detached")
	}
	return false, why, nil
}

// Detach takes a device away.
func (s *attachments) Detach(ctx context.Context, r *v1.DetachRequest) (*v1.DetachResponse, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	volume, err := s.findVolume(ctx, r.Volume)
	if fault.Is(err, fault.NotFound) {
		return &v1.DetachResponse{}, nil // what doesn't exist is attached nowhere
	}
	if err != nil {
		return nil, err
	}
	only := ""
	if r.Node != "" {
		node, err := s.findNode(ctx, r.Node)
		if err != nil {
			return nil, fault.WithField(err, "node")
		}
		only = node.ID
	}
	if err := s.detach(ctx, volume, only, r.Force); err != nil {
		return nil, err
	}
	return &v1.DetachResponse{}, s.waitDetached(ctx, volume, only, wait)
}

// detach takes back the wish; forced, what the node said is forgotten, too: it can't be
// asked, and the epoch of whoever attaches the volume next fences it.
func (s *attachments) detach(ctx context.Context, volume state.Entry[*v1.Volume], only string, force bool) error {
	for range attemptsMax {
		var ops []state.Op
		have, err := state.Attachments.Get(ctx, s.store, volume.ID)
		switch {
		case err == nil && (only == "" || have.Value.GetSpec().GetNodeId() == only):
			ops = append(ops, state.Attachments.Delete(volume.ID, have.Revision))
		case err != nil && !fault.Is(err, fault.NotFound):
			return unreachableIf(err)
		}
		if force {
			status, err := state.AttachStatuses.Get(ctx, s.store, volume.ID)
			if err == nil && (only == "" || status.Value.NodeId == only) {
				ops = append(ops, state.AttachStatuses.Delete(volume.ID, status.Revision))
			}
		}
		if len(ops) == 0 {
			return nil
		}
		at, err := s.commit(ctx, append(ops, s.event(ctx, state.KindVolume, volume.Value.Meta, "DetachAsked", "it is to be detached"))...)
		if fault.Is(err, fault.Busy) {
			continue
		}
		if err != nil {
			return err
		}
		if err := s.view.attachments.Reach(ctx, at); err != nil || !force {
			return err
		}
		return s.forgotten(ctx, volume.ID, at)
	}
	return fault.Errorf("server", fault.Busy, "volume %s was not detached: %w", volume.Value.Meta.Name, errTooBusy)
}

// forgotten waits until the view lacks what the commit took away.
func (s *attachments) forgotten(ctx context.Context, volume string, at state.Revision) error {
	for {
		changed := s.view.Changed()
		if e, ok := s.view.attachStatuses.Get(volume); !ok || e.Revision > at {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return state.Ended("server", ctx)
		}
	}
}

func (s *attachments) waitDetached(ctx context.Context, volume state.Entry[*v1.Volume], only string, wait time.Duration) error {
	return s.waitFor(ctx, wait, fmt.Sprintf("volume %s is not detached", volume.Value.Meta.Name), func() (bool, string, error) {
		if e, again := s.view.attachments.Get(volume.ID); again && (only == "" || e.Value.GetSpec().GetNodeId() == only) {
			return true, "", nil // by somebody else, and anew
		}
		had := s.view.device(volume.ID)
		if had == nil || only != "" && had.NodeId != only {
			return true, "", nil
		}
		why := fmt.Sprintf("node %s still has the device: %s", s.view.nodeName(had.NodeId), words(had.Conditions, "it is at it"))
		if !s.view.up(had.NodeId) {
			why = fmt.Sprintf("node %s is down and can't say: detach with --force", s.view.nodeName(had.NodeId))
		}
		return false, why, nil
	})
}

// Mount mounts an attached volume's filesystem.
func (s *attachments) Mount(ctx context.Context, r *v1.MountRequest) (*v1.Attachment, error) {
	if err := checkPath("path", r.Path); err != nil {
		return nil, err
	}
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	return s.remount(ctx, r.Volume, wait, func(a *v1.AttachmentSpec) error {
		if a.Frontend == frontendExport {
			return fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is exported to clients: there is no device to mount", r.Volume), "detach it, and attach it as a device")
		}
		if a.MountPath != "" && a.MountPath != r.Path {
			return fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is mounted at %s", r.Volume, a.MountPath), "unmount it first: holdfast volume unmount "+r.Volume)
		}
		a.MountPath, a.MountOptions = r.Path, r.Options
		return nil
	})
}

// Unmount unmounts an attached volume's filesystem.
func (s *attachments) Unmount(ctx context.Context, r *v1.UnmountRequest) (*v1.Attachment, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	return s.remount(ctx, r.Volume, wait, func(a *v1.AttachmentSpec) error {
		a.MountPath, a.MountOptions = "", nil
		return nil
	})
}

// remount changes where a volume is mounted.
func (s *attachments) remount(ctx context.Context, ref string, wait time.Duration, do func(*v1.AttachmentSpec) error) (*v1.Attachment, error) {
	volume, e, err := s.attached(ctx, ref)
	if err != nil {
		return nil, err
	}
	e, err = update(ctx, s.Server, state.Attachments, s.view.attachments, e.ID, func(a *v1.Attachment) ([]state.Op, error) { return nil, do(a.Spec) })
	if err != nil {
		return nil, err
	}
	want := e.Value.Spec
	err = s.waitFor(ctx, wait, fmt.Sprintf("the mount of volume %s is not as asked", volume.Value.Meta.Name), func() (bool, string, error) { return s.attachedYet(e.ID, want) })
	if err != nil {
		return nil, err
	}
	return s.view.attachment(e.ID), nil
}

// attached finds a volume that is attached.
func (s *attachments) attached(ctx context.Context, ref string) (volume state.Entry[*v1.Volume], e state.Entry[*v1.Attachment], err error) {
	if volume, err = s.findVolume(ctx, ref); err != nil {
		return volume, e, err
	}
	e, err = state.Attachments.Get(ctx, s.store, volume.ID)
	if fault.Is(err, fault.NotFound) {
		err = fault.WithCure(fault.Errorf("server", fault.Precondition, "volume %s is not attached", volume.Value.Meta.Name), "attach it: holdfast volume attach "+volume.Value.Meta.Name)
	}
	return volume, e, unreachableIf(err)
}

// Abort lets I/O that waits fail.
func (s *attachments) Abort(ctx context.Context, r *v1.AbortRequest) (*v1.Attachment, error) {
	wait, err := checkWait(r.Wait)
	if err != nil {
		return nil, err
	}
	volume, e, err := s.attached(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	_, err = update(ctx, s.Server, state.Attachments, s.view.attachments, e.ID, func(a *v1.Attachment) ([]state.Op, error) {
		if a.Spec.Aborted {
			return nil, nil
		}
		a.Spec.Aborted = true
		return []state.Op{s.event(ctx, state.KindVolume, volume.Value.Meta, "Aborted", "its I/O is to fail at once")}, nil
	})
	if err != nil {
		return nil, err
	}
	err = s.waitFor(ctx, wait, fmt.Sprintf("volume %s is not aborted", volume.Value.Meta.Name), func() (bool, string, error) {
		a := s.view.attachment(e.ID)
		done := a == nil || slices.ContainsFunc(a.Status.Conditions, func(c *v1.Condition) bool { return c.Reason == reasonAborted })
		return done, "its node does not say so: on that machine, holdfast volume abort --here does it", nil
	})
	if err != nil {
		return nil, err
	}
	return s.view.attachment(e.ID), nil
}

// GetAttachment returns the attachment of one volume.
func (s *attachments) GetAttachment(ctx context.Context, r *v1.GetAttachmentRequest) (*v1.Attachment, error) {
	volume, err := s.findVolume(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	if a := s.view.attachment(volume.ID); a != nil {
		return a, nil
	}
	return nil, fault.WithCure(fault.Errorf("server", fault.NotFound, "volume %s is not attached", volume.Value.Meta.Name), "attach it: holdfast volume attach "+volume.Value.Meta.Name)
}

// all returns all attachments, by the names of their volumes.
func (s *attachments) all(node string, only v1.AttachmentState) (list []*v1.Attachment) {
	ids := map[string]bool{}
	for _, e := range s.view.attachments.List() {
		ids[e.ID] = true
	}
	for _, e := range s.view.attachStatuses.List() {
		ids[e.ID] = true // but those of heads without a device, for which attachment is nil
	}
	for _, id := range sortedKeys(ids) {
		a := s.view.attachment(id)
		if a != nil && (node == "" || cmp.Or(a.GetSpec().GetNodeId(), a.Status.NodeId) == node) && (only == 0 || a.Status.State == only) {
			list = append(list, a)
		}
	}
	return list
}

// ListAttachments lists attachments.
func (s *attachments) ListAttachments(ctx context.Context, r *v1.ListAttachmentsRequest) (*v1.ListAttachmentsResponse, error) {
	node, err := s.nodeID(ctx, r.Node)
	if err != nil {
		return nil, err
	}
	key := func(a *v1.Attachment) string { return s.view.volumeName(a.VolumeId) + "\x00" + a.VolumeId }
	list, next, err := page(sortedBy(s.all(node, r.State), key), r.PageSize, r.PageToken, key)
	return &v1.ListAttachmentsResponse{Attachments: list, NextPageToken: next}, err
}

// nodeID resolves a node that may be left out.
func (s *Server) nodeID(ctx context.Context, ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	e, err := s.findNode(ctx, ref)
	if err != nil {
		return "", fault.WithField(err, "node")
	}
	return e.ID, nil
}

// WatchAttachments tells of attachments.
func (s *attachments) WatchAttachments(ctx context.Context, r *v1.WatchAttachmentsRequest, out *connect.ServerStream[v1.WatchAttachmentsResponse]) error {
	node, err := s.nodeID(ctx, r.Node)
	if err != nil {
		return err
	}
	only := ""
	if r.Volume != "" {
		e, err := s.findVolume(ctx, r.Volume)
		if err != nil {
			return err
		}
		only = e.ID
	}
	return watch(ctx, s.Server, func() watched[*v1.Attachment] {
		all := watched[*v1.Attachment]{}
		for _, a := range s.all(node, 0) {
			if only == "" || a.VolumeId == only {
				all[a.VolumeId] = a
			}
		}
		return all
	}, stream(out, func(c v1.Change, a *v1.Attachment) *v1.WatchAttachmentsResponse {
		return &v1.WatchAttachmentsResponse{Change: c, Attachment: a}
	}))
}

func joined(list []string) string {
	slices.Sort(list)
	return strings.Join(list, "; ")
}
