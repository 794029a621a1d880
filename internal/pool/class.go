package pool

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// MeasureDefault is for how long a new pool is measured; a slow disk may take a little
// longer to finish what it was given.
const MeasureDefault = 1600 * time.Millisecond

// How it is measured.
const (
	measureBytes = 64 << 20 // of the file
	measureFill  = 1 << 20  // bytes a write, while the file is filled
	measureDepth = 16       // random operations in flight
	syncsMin     = 3
)

// Figures are what a short measurement of a pool gave: through the filesystem, with
// direct I/O, while others may have used the same disk.
type Figures struct {
	ReadIOPS   int64 `json:"readIOPS"`   // 4 KiB random reads a second, 16 in flight
	WriteIOPS  int64 `json:"writeIOPS"`  // 4 KiB random overwrites a second, 16 in flight
	SyncMicros int64 `json:"syncMicros"` // a 4 KiB write with fdatasync: median, in microseconds
}

// Class puts figures into words: High is what local SSDs do, Medium what network disks
// and disk arrays do, Low is the rest.
func (f Figures) Class() Class {
	atLeast := func(iops, syncMicros int64) bool {
		return f.ReadIOPS >= iops && f.WriteIOPS >= iops && f.SyncMicros <= syncMicros
	}
	switch {
	case atLeast(10_000, 2_000):
		return High
	case atLeast(1_000, 20_000):
		return Medium
	}
	return Low
}

// measureDirectory measures the filesystem of dir for about the time given, or for
// MeasureDefault, in a file that it removes.
func measureDirectory(dir string, lasting time.Duration) (Figures, error) {
	if lasting <= 0 {
		lasting = MeasureDefault
	}
	disk, err := host.Open(dir, host.Options{})
	if err != nil {
		return Figures{}, fault.Wrap("pool.measure", err)
	}
	f, err := measure(disk, host.RealClock{}, lasting)
	disk.Close()
	if gone := os.Remove(filepath.Join(dir, measureName)); err == nil {
		err = gone
	}
	return f, fault.Wrap("pool.measure", err)
}

// meter measures one file.
type meter struct {
	disk   host.Disk
	clock  host.Clock
	file   host.File
	blocks int64 // that were filled
	random *rand.Rand
}

// measure measures a new file on disk, a quarter of the time on each: filling it,
// reads, writes, syncs.
func measure(disk host.Disk, clock host.Clock, lasting time.Duration) (f Figures, err error) {
	open := &host.Op{Kind: host.OpOpen, Path: measureName, Flags: host.Create | host.Direct}
	if err := host.Do(disk, open); err != nil {
		return f, err
	}
	m := &meter{disk: disk, clock: clock, file: open.File, random: rand.New(rand.NewPCG(1, 2))}
	defer host.Do(disk, &host.Op{Kind: host.OpClose, File: m.file})
	part := lasting / 4
	if err := m.fill(part); err != nil {
		return f, err
	}
	if f.ReadIOPS, err = m.iops(host.OpRead, part); err != nil {
		return f, err
	}
	if f.WriteIOPS, err = m.iops(host.OpWrite, part); err != nil {
		return f, err
	}
	f.SyncMicros, err = m.syncMicros(part)
	return f, err
}

func (m *meter) block() int64 { return m.random.Int64N(m.blocks) * host.Align }

// fill writes the file, as much of it as time allows, so that reads meet data and
// writes need no allocation.
func (m *meter) fill(lasting time.Duration) error {
	buf := host.Buffer(measureFill)
	for i := range buf {
		buf[i] = byte(m.random.Uint32()) // what can't be compressed or left out
	}
	end := m.clock.Now() + lasting
	for at := int64(0); at < measureBytes && (at == 0 || m.clock.Now() < end); at += measureFill {
		if err := host.Do(m.disk, &host.Op{Kind: host.OpWrite, File: m.file, Offset: at, Buf: buf}); err != nil {
			return err
		}
		m.blocks = (at + measureFill) / host.Align
	}
	return host.Do(m.disk, &host.Op{Kind: host.OpSync, File: m.file})
}

// iops counts how many random operations a second are done, measureDepth in flight.
func (m *meter) iops(kind host.Kind, lasting time.Duration) (int64, error) {
	var done int64
	var failed error
	start := m.clock.Now()
	for range measureDepth {
		op := &host.Op{Kind: kind, File: m.file, Offset: m.block(), Buf: host.Buffer(host.Align)}
		op.Done = func(op *host.Op) {
			if op.Err != nil {
				failed = fmt.Errorf("measure at %d: %w", op.Offset, op.Err)
				return
			}
			done++
			if m.clock.Now()-start < lasting {
				op.Offset = m.block()
				m.disk.Submit(op)
			}
		}
		m.disk.Submit(op)
	}
	for m.disk.InFlight() > 0 {
		m.disk.Poll(-1)
	}
	return int64(float64(done) / max(m.clock.Now()-start, 1).Seconds()), failed
}

// syncMicros returns the median time of a 4 KiB write that is made durable.
func (m *meter) syncMicros(lasting time.Duration) (int64, error) {
	var took []time.Duration
	buf := host.Buffer(host.Align)
	start := m.clock.Now()
	for now := start; now-start < lasting || len(took) < syncsMin; {
		if err := host.Do(m.disk, &host.Op{Kind: host.OpWrite, File: m.file, Offset: m.block(), Buf: buf}); err != nil {
			return 0, err
		}
		if err := host.Do(m.disk, &host.Op{Kind: host.OpSync, File: m.file}); err != nil {
			return 0, err
		}
		then := now
		now = m.clock.Now()
		took = append(took, now-then)
	}
	slices.Sort(took)
	return took[len(took)/2].Microseconds(), nil
}
