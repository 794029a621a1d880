package store

import (
	"fmt"
	"slices"

	"github.com/holdfast-io/holdfast/internal/block"
)

// CheckReport is what [Inspection.Check] looked at, and what it found.
type CheckReport struct {
	Regions       int64 // records of regions that were ever written
	JournalBlocks int64 // that are still needed
	Files         int64 // chunk files
	Tables        int64 // block tables in them
	Stores        []GenerationStore
	Findings      []Finding // at most findingsMax, in the order of the files
	More          int64     // findings beyond those listed
	Damaged       int64     // findings that are damage, the ones not listed included
}

// GenerationStore is what lies in the chunk files of one generation, whoever sees it.
type GenerationStore struct {
	Generation block.Generation `json:"generation"`
	Files      int64            `json:"files"`
	Tables     int64            `json:"tables"`
	Blocks     int64            `json:"blocks"`    // data blocks in the files' own slots
	Allocated  int64            `json:"allocated"` // bytes that the files take, tables and reserved space included
}

// Finding is one thing that Check found.
type Finding struct {
	// Damage means that something which was stored can't be read any more, or can't be
	// trusted. Other findings are only worth knowing.
	Damage     bool
	What       string           // "lock", "journal", "region record", "block table", "chunk file", "stray file"
	File       string           // below the replica's directory
	Generation block.Generation // which can't be read; 0 when it is all, or none in particular
	Extent     block.Extent     // the blocks concerned; empty when it is all, or none in particular
	Detail     string
	Cure       string // a sentence in the imperative, without a full stop
}

// String prints what was found, without the cure.
func (f Finding) String() string {
	text := f.What + " in " + f.File
	if f.Generation != 0 {
		text += fmt.Sprintf(", generation %d", f.Generation)
	}
	if !f.Extent.Empty() {
		text += fmt.Sprintf(", blocks %v", f.Extent)
	}
	return text + ": " + f.Detail
}

// findingsMax bounds how many findings a report lists.
const findingsMax = 1000

func (c *CheckReport) add(f Finding) {
	if f.Damage {
		c.Damaged++
	}
	if len(c.Findings) == findingsMax {
		c.More++
		return
	}
	c.Findings = append(c.Findings, f)
}

// store returns the counts of generation g.
func (c *CheckReport) store(g block.Generation) *GenerationStore {
	i, found := slices.BinarySearchFunc(c.Stores, g, func(s GenerationStore, g block.Generation) int {
		return int(s.Generation) - int(g)
	})
	if !found {
		c.Stores = slices.Insert(c.Stores, i, GenerationStore{Generation: g})
	}
	return &c.Stores[i]
}

// What helps against damage. A bad region or table refuses writes too, so overwriting is
// no way out there.
const (
	cureRebuild  = "make the replica anew from another replica or from a backup"
	cureRegion   = "save what else the volume holds, then " + cureRebuild
	cureSnapshot = "delete the snapshots that show these blocks, or " + cureRebuild
	cureStray    = "move it away: nothing here uses it"
	cureNothing  = "nothing to do"
)
