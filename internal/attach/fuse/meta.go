package fuse

import (
	"encoding/json"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/fusectl"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// meta is what a successor must know of a device. It is kept by the keeper, as JSON,
// which ignores fields that it does not know, and is read by older and newer builds.
//
// The files that are kept with it are, in this order: /dev/fuse, first, so that a
// keeper that closes them ends the connection before anything waits for it; the memory
// of the slots; and once the device is there, an O_PATH descriptor of the file and the
// loop device.
type meta struct {
	Kind       string             `json:"kind"`    // kindName
	Version    int                `json:"version"` // metaVersion
	Phase      phase              `json:"phase"`
	Volume     block.VolumeID     `json:"volume"`
	Slots      geometry           `json:"slots"`
	Connection fusectl.Connection `json:"connection,omitempty"`
	BlockSize  int                `json:"block_size"`
	ReadOnly   bool               `json:"read_only,omitempty"`
	NoDiscard  bool               `json:"no_discard,omitempty"`
	Resend     bool               `json:"resend,omitempty"` // the kernel can send requests again
}

const kindName = "fuse"

// Version history. Add a line; a device outlives the build that made it, so what was
// written once must be understood for as long as a device may live.
//
//	1  first
const metaVersion = 1

// phase says how far a device has come.
type phase string

const (
	starting phase = "starting" // it may not be there; a successor begins anew
	ready    phase = "ready"
	stopping phase = "stopping" // nobody used it any more; a successor begins anew
)

// Files of a device that is ready.
const (
	fileFuse = iota
	fileMemory
	fileNodeFD
	fileLoop
	filesCount
)

func (m meta) entry(name string) (keeper.Entry, error) {
	m.Kind, m.Version = kindName, metaVersion
	raw, err := json.Marshal(m)
	return keeper.Entry{Name: name, Meta: string(raw)}, err
}

func parseMeta(e keeper.Entry) (m meta, err error) {
	if err := json.Unmarshal([]byte(e.Meta), &m); err != nil {
		return m, fault.Errorf("fuse.parseMeta", fault.Corrupt, "what the keeper has under %q can't be read: %w", e.Name, err)
	}
	if m.Kind != kindName {
		return m, fault.Errorf("fuse.parseMeta", fault.Exists, "%q is a device of kind %q", e.Name, m.Kind)
	}
	if m.Version != metaVersion {
		return m, fault.WithCure(fault.Errorf("fuse.parseMeta", fault.Unsupported, "%q was made by a newer build: version %d", e.Name, m.Version),
			"start that build again, or abort the device")
	}
	return m, nil
}

// Left returns what the keeper has of devices that are there: what a data process that
// starts is to take over. Of the options those are set that the device has by itself:
// Volume, Name, BlockSize, ReadOnly and NoDiscard.
func Left(entries []keeper.Entry) (left []attach.Options) {
	for _, e := range entries {
		if m, err := parseMeta(e); err == nil && m.Phase == ready {
			left = append(left, attach.Options{Volume: m.Volume, Name: e.Name, BlockSize: m.BlockSize, ReadOnly: m.ReadOnly, NoDiscard: m.NoDiscard})
		}
	}
	return left
}

// Connections returns the connections of the devices that the keeper has, by volume
// name, for attach.Sweep to spare.
func Connections(entries []keeper.Entry) map[string]fusectl.Connection {
	connections := map[string]fusectl.Connection{}
	for _, e := range entries {
		if m, err := parseMeta(e); err == nil && m.Phase == ready {
			connections[e.Name] = m.Connection
		}
	}
	return connections
}
