package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Manifest is replica.json: what a replica is, apart from its bytes.
type Manifest struct {
	Version    int                `json:"version"` // of the format of the whole directory
	Volume     block.VolumeID     `json:"volume"`
	Replica    block.ReplicaID    `json:"replica"`
	Size       int64              `json:"size"`       // bytes
	Generation block.Generation   `json:"generation"` // the live one; the highest
	Snapshots  []block.Generation `json:"snapshots"`  // readable older generations, ascending
	Reclaim    []block.Generation `json:"reclaim"`    // deleted ones whose space is still to be freed
	Promised   block.Epoch        `json:"promised"`   // lower epochs are refused
	// Sealing is a generation that is about to end, the live one or a higher number; files
	// of the next may be there already. 0 is none.
	Sealing block.Generation `json:"sealing,omitempty"`
	// Void is what the journal still has of generations that were given up.
	Void []void `json:"void,omitempty"`
	// Origins are the volumes that this one was cloned from, nearest first: their ids
	// stand in the chunk files that the clone shares.
	Origins []block.VolumeID `json:"origins,omitempty"`
	// Base is the generation that the clone began with, 0 for a volume that is none: chunk
	// files up to it may be shared with the origins, and are not written to.
	Base block.Generation `json:"base,omitempty"`
	// Journal is the number of the journal block after the last one at a clean close,
	// 0 while the replica is open.
	Journal uint64 `json:"journal"`
	// JournalTail is what Journal was when the replica was opened last after a clean
	// close: earlier journal blocks do not matter.
	JournalTail uint64 `json:"journalTail,omitempty"`
}

// Version history of the directory. A build reads its own only: nothing was released yet.
//
//	1  first
//	2  blocks are summed with CRC-32 of IEEE 802.3, see block.Sum
const formatVersion = 2

const manifestSizeMax = 1 << 20

// encode prints the manifest as one line of JSON, followed by a line with its checksum.
func (m *Manifest) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // no field can fail
	}
	return fmt.Appendf(b, "\ncrc32c:%08x\n", block.MetaSum(b))
}

// decodeManifest reads and validates what encode printed. A version that is not known is
// Unsupported.
func decodeManifest(b []byte) (Manifest, error) {
	var m Manifest
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok || string(rest) != fmt.Sprintf("crc32c:%08x\n", block.MetaSum(line)) {
		return m, fmt.Errorf("replica.json: its checksum does not match")
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(line, &version); err != nil {
		return m, fmt.Errorf("replica.json: %w", err)
	}
	if version.Version != formatVersion {
		err := fault.Errorf("store.Open", fault.Unsupported, "replica.json: format version %d, this holdfast knows %d", version.Version, formatVersion)
		if version.Version < formatVersion {
			return m, fault.WithCure(err, "copy the volume's data out with the build that made it")
		}
		return m, fault.WithCure(err, "upgrade holdfast")
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("replica.json: %w", err)
	}
	return m, m.validate()
}

func (m *Manifest) validate() error {
	switch {
	case !block.ValidSize(m.Size):
		return fmt.Errorf("replica.json: size %d is not a positive multiple of %d", m.Size, block.Size)
	case m.Generation == 0 || m.Base >= m.Generation:
		return fmt.Errorf("replica.json: generation %d, cloned at %d", m.Generation, m.Base)
	}
	for _, list := range [][]block.Generation{m.Snapshots, m.Reclaim} {
		for i, g := range list {
			if g == 0 || g >= m.Generation || i > 0 && list[i-1] >= g {
				return fmt.Errorf("replica.json: generations %v are not ascending below %d", list, m.Generation)
			}
		}
	}
	if m.Sealing != 0 && (m.Sealing < m.Generation || m.Journal != 0) {
		return fmt.Errorf("replica.json: generation %d is about to end, the live one is %d, journal block %d", m.Sealing, m.Generation, m.Journal)
	}
	for _, g := range m.Reclaim {
		if slices.Contains(m.Snapshots, g) {
			return fmt.Errorf("replica.json: generation %d is both a snapshot and deleted", g)
		}
	}
	return nil
}

func (m *Manifest) clone() Manifest {
	c := *m
	c.Snapshots = slices.Clone(m.Snapshots)
	c.Reclaim = slices.Clone(m.Reclaim)
	c.Origins = slices.Clone(m.Origins)
	c.Void = slices.Clone(m.Void)
	return c
}

// live reports whether generation g can be read.
func (m *Manifest) live(g block.Generation) bool {
	return g == m.Generation || slices.Contains(m.Snapshots, g)
}
