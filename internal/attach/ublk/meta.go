package ublk

import (
	"encoding/json"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/keeper"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// meta is what a successor must know of a device, kept by the keeper as JSON. The file
// that is kept with it is the end of a pipe: see package doc.
type meta struct {
	Kind      string         `json:"kind"`    // kindName
	Version   int            `json:"version"` // metaVersion
	Ready     bool           `json:"ready"`   // otherwise a successor begins anew
	Volume    block.VolumeID `json:"volume"`
	ID        uint32         `json:"id"`
	Mark      uint64         `json:"mark"`
	Depth     int            `json:"depth"`
	IOBytes   int            `json:"io_bytes"`
	Size      int64          `json:"size"`
	BlockSize int            `json:"block_size"`
	ReadOnly  bool           `json:"read_only,omitempty"`
	NoDiscard bool           `json:"no_discard,omitempty"`
}

const kindName = "ublk"

// Version history. Add a line; a device outlives the build that made it.
//
//	1  first
const metaVersion = 1

func (m meta) entry(name string) (keeper.Entry, error) {
	m.Kind, m.Version = kindName, metaVersion
	raw, err := json.Marshal(m)
	return keeper.Entry{Name: name, Meta: string(raw)}, err
}

func parseMeta(e keeper.Entry) (m meta, err error) {
	if err := json.Unmarshal([]byte(e.Meta), &m); err != nil {
		return m, fault.Errorf("ublk.parseMeta", fault.Corrupt, "what the keeper has under %q can't be read: %w", e.Name, err)
	}
	if m.Kind != kindName {
		return m, fault.Errorf("ublk.parseMeta", fault.Exists, "%q is a device of kind %q", e.Name, m.Kind)
	}
	if m.Version != metaVersion {
		return m, fault.WithCure(fault.Errorf("ublk.parseMeta", fault.Unsupported, "%q was made by a newer build: version %d", e.Name, m.Version),
			"start that build again, or abort the device")
	}
	return m, nil
}

// Left returns what the keeper has of devices that are there: what a data process that
// starts is to take over. Of the options those are set that the device has by itself:
// Volume, Name, BlockSize, ReadOnly and NoDiscard.
func Left(entries []keeper.Entry) (left []attach.Options) {
	for _, e := range entries {
		if m, err := parseMeta(e); err == nil && m.Ready {
			left = append(left, attach.Options{Volume: m.Volume, Name: e.Name, BlockSize: m.BlockSize, ReadOnly: m.ReadOnly, NoDiscard: m.NoDiscard})
		}
	}
	return left
}
