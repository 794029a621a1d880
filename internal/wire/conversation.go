package wire

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Open begins a conversation with a replica on the channel of its header, which the
// sender chose. The answer is Opened, or Fail.
type Open struct {
	Volume  block.VolumeID
	Replica block.ReplicaID
}

// Kind returns KindOpen.
func (*Open) Kind() Kind { return KindOpen }

func (m *Open) code(c coder) coder {
	c.id((*[16]byte)(&m.Volume))
	c.id((*[16]byte)(&m.Replica))
	return c
}

// State is what a replica knows of its own health. Whether it is in sync is not its to
// say: the volume's record knows.
type State uint8

// The states.
const (
	Serving State = iota + 1 // all is well
	Failed                   // it lost something that it can't name: its process must open it anew
	Leaving                  // its process is about to end on purpose
	Lost                     // an earlier process failed, and what it had not flushed may be missing
	Forgot                   // its machine lost power, and what was not flushed may be missing
	stateEnd
)

var stateNames = [stateEnd]string{"", "serving", "failed", "leaving", "lost", "forgot"}

// String names the state.
func (s State) String() string {
	if s > 0 && s < stateEnd {
		return stateNames[s]
	}
	return "unknown"
}

// Opened answers Open: what the replica is.
type Opened struct {
	Size        int64              // bytes
	Generation  block.Generation   // the live one
	Promised    block.Epoch        // lower epochs are refused
	Incarnation uint64             // of the replica's process; never 0
	Boot        uint64             // of the replica's machine
	State       State              // how it is
	Snapshots   []block.Generation // readable older generations, ascending; at most GenerationsMax
}

// Kind returns KindOpened.
func (*Opened) Kind() Kind { return KindOpened }

func (m *Opened) code(c coder) coder {
	c.epoch(&m.Promised)
	c.size(&m.Size)
	c.u32((*uint32)(&m.Generation))
	c.u64(&m.Incarnation)
	c.u64(&m.Boot)
	c.u8((*uint8)(&m.State))
	c.generations(&m.Snapshots)
	if m.State == 0 || m.State >= stateEnd {
		c.wrong("state %d", m.State)
	}
	if m.Incarnation == 0 {
		c.wrong("no incarnation")
	}
	return c
}

// Promise asks a replica to refuse every epoch below this one, to drain what lower ones
// have in flight, and to grant a lease. The answer is Promised, or Fail: Fenced with the
// epoch that was promised to somebody else, or Busy with what is left of the lease of
// the owner before.
type Promise struct {
	Epoch       block.Epoch
	Owner       block.NodeID  // where the volume is attached
	Incarnation uint64        // of the owner's process
	Lease       time.Duration // asked for; at most DurationMax
	SameNode    bool          // what was promised last was to a process of the same node, which is dead: its lease need not run out
}

// Kind returns KindPromise.
func (*Promise) Kind() Kind { return KindPromise }

func (m *Promise) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.flag(flagSameNode, &m.SameNode)
	c.id((*[16]byte)(&m.Owner))
	c.u64(&m.Incarnation)
	c.duration(&m.Lease)
	return c
}

// Promised answers Promise.
type Promised struct {
	Epoch      block.Epoch
	Generation block.Generation // the live one
	Lease      time.Duration    // granted, counted from when Promise was sent; at most DurationMax
}

// Kind returns KindPromised.
func (*Promised) Kind() Kind { return KindPromised }

func (m *Promised) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u32((*uint32)(&m.Generation))
	c.duration(&m.Lease)
	return c
}

// Renew prolongs the lease by its length. The answer is Renewed, or Fail.
type Renew struct {
	Epoch    block.Epoch
	Sequence uint64 // names when it was sent, to its sender
}

// Kind returns KindRenew.
func (*Renew) Kind() Kind { return KindRenew }

func (m *Renew) code(c coder) coder {
	c.epoch(&m.Epoch)
	c.u64(&m.Sequence)
	return c
}

// Renewed answers Renew.
type Renewed struct {
	Sequence uint64
}

// Kind returns KindRenewed.
func (*Renewed) Kind() Kind { return KindRenewed }

func (m *Renewed) code(c coder) coder {
	c.u64(&m.Sequence)
	return c
}

// Release gives the lease back: the owner has detached and will send nothing more under
// its epoch. The answer is Done, or Fail.
type Release struct {
	Epoch block.Epoch
}

// Kind returns KindRelease.
func (*Release) Kind() Kind { return KindRelease }

func (m *Release) code(c coder) coder {
	c.epoch(&m.Epoch)
	return c
}

// Done answers requests that return nothing else: they were done.
type Done struct {
	Incarnation uint64 // of the replica's process
}

// Kind returns KindDone.
func (*Done) Kind() Kind { return KindDone }

func (m *Done) code(c coder) coder {
	c.u64(&m.Incarnation)
	return c
}

// Fail answers any request: it was not done, or nobody knows.
type Fail struct {
	Status fault.Kind
	Epoch  block.Epoch   // Fenced: the one that was promised
	Wait   time.Duration // Busy: when to try again; at most DurationMax
	Block  block.Index   // Corrupt: the first bad block
	Text   string        // for people; at most TextMax bytes
}

// Kind returns KindFail.
func (*Fail) Kind() Kind { return KindFail }

func (m *Fail) code(c coder) coder {
	c.status(&m.Status)
	c.epoch(&m.Epoch)
	c.duration(&m.Wait)
	c.u64((*uint64)(&m.Block))
	c.text(&m.Text, TextMax)
	return c
}
