package cli

import (
	"fmt"
	"time"

	"github.com/holdfast-io/holdfast/internal/pool"
)

// poolView is a pool as commands print it.
type poolView struct {
	Path           string        `json:"path"`
	Pool           string        `json:"pool,omitempty"`
	Cluster        string        `json:"cluster,omitempty"`
	State          pool.State    `json:"state"`
	Reason         string        `json:"reason,omitempty"`
	Cure           string        `json:"cure,omitempty"`
	Kind           pool.Kind     `json:"kind,omitempty"`
	Device         string        `json:"device,omitempty"`
	Mount          string        `json:"mount,omitempty"`
	Filesystem     string        `json:"filesystem,omitempty"`
	Note           string        `json:"note,omitempty"`
	OwnerPID       int           `json:"ownerPID,omitempty"`
	Created        time.Time     `json:"created,omitzero"`
	Class          pool.Class    `json:"class,omitempty"`
	ClassGiven     bool          `json:"classGiven"`
	Measured       *pool.Figures `json:"measured,omitempty"`
	ReservePercent int           `json:"reservePercent,omitempty"`
	CapacityBytes  int64         `json:"capacityBytes"`
	UsedBytes      int64         `json:"usedBytes"`
	FreeBytes      int64         `json:"freeBytes"`
	ReserveBytes   int64         `json:"reserveBytes"`
	AvailableBytes int64         `json:"availableBytes"`
}

func viewOf(r pool.Report) poolView {
	v := poolView{
		Path: r.Path, State: r.Health.State, Reason: r.Health.Reason, Cure: r.Health.Cure,
		Mount: r.Mount, Filesystem: r.Filesystem, Note: r.Note, OwnerPID: r.OwnerPID,
		CapacityBytes: r.Usage.Capacity, UsedBytes: r.Usage.Used, FreeBytes: r.Usage.Free,
		ReserveBytes: r.Usage.Reserve, AvailableBytes: r.Usage.Available,
	}
	if id := r.Identity; !id.Pool.IsZero() {
		v.Pool, v.Cluster = id.Pool.String(), id.Cluster.String()
		v.Kind, v.Device, v.Created, v.ReservePercent = id.Kind, id.Device, id.Created, id.ReservePercent
		v.Class, v.ClassGiven, v.Measured = id.Class, id.ClassGiven, &id.Measured
	}
	return v
}

// draw prints the view for people.
func (v poolView) draw(t *table) {
	t.field("path", v.Path)
	t.field("pool", v.Pool)
	t.field("cluster", v.Cluster)
	t.field("state", v.State)
	t.field("reason", v.Reason)
	t.field("cure", v.Cure)
	t.field("kind", v.Kind)
	t.field("device", v.Device)
	t.field("mount", v.Mount)
	t.field("filesystem", v.Filesystem)
	t.field("note", v.Note)
	if v.OwnerPID > 0 {
		t.field("open in", fmt.Sprintf("process %d", v.OwnerPID))
	}
	t.field("created", v.Created.Format(time.RFC3339))
	t.field("class", v.Class)
	if m := v.Measured; m != nil {
		t.field("measured", fmt.Sprintf("%d reads/s, %d writes/s of 4 KiB; %d µs a flushed write", m.ReadIOPS, m.WriteIOPS, m.SyncMicros))
	}
	if v.CapacityBytes > 0 {
		t.field("capacity", bytesText(v.CapacityBytes))
		t.field("used", bytesText(v.UsedBytes))
		t.field("free", bytesText(v.FreeBytes))
		t.field("reserve", fmt.Sprintf("%s (%d %%)", bytesText(v.ReserveBytes), v.ReservePercent))
		t.field("available", bytesText(v.AvailableBytes))
	}
}
