package link

import (
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/wire"
)

// Options are what a connection needs to know. Several may share one.
type Options struct {
	// Self is what this node says of itself. Lowest and Highest are those of this build
	// when they are 0.
	Self wire.Hello
	// Credentials prove it. Without them Clear must be set.
	Credentials *Credentials
	// Clear does without TLS: for sockets that do not leave the machine, and for
	// benchmarks. Anybody who can reach such a socket is believed.
	Clear bool
	// Pool is where received frames live. It is needed.
	Pool *Pool
	// Clock is what LastReceived tells; nil is the machine's.
	Clock host.Clock
	// Room is called when there is room in the queue after TrySend or Queue found none,
	// by whichever goroutine has written. It must not wait. It may be nil.
	Room func()

	HandshakeMax     time.Duration // for connecting and shaking hands; 0 is 10 s
	LingerMax        time.Duration // for the last words of a connection; 0 is 1 s
	UnackedMax       time.Duration // TCP: sent and not acknowledged ends the connection; 0 is 30 s
	QueueFramesMax   int           // to be sent; 0 is 4096
	QueueBytesMax    int           // to be sent, and one frame more; 0 is 4 MiB
	PendingFramesMax int           // received and not released; 0 is 1024
	PendingBytesMax  int           // received and not released, of data; 0 is 16 MiB
}

// pendingBytesLeast lets the largest frame through.
const pendingBytesLeast = wire.DataMax

func (o Options) withDefaults() Options {
	if o.Self.Lowest == 0 && o.Self.Highest == 0 {
		o.Self.Lowest, o.Self.Highest = wire.Lowest, wire.Highest
	}
	if o.Clock == nil {
		o.Clock = host.RealClock{}
	}
	orElse(&o.HandshakeMax, 10*time.Second)
	orElse(&o.LingerMax, time.Second)
	orElse(&o.UnackedMax, 30*time.Second)
	orElse(&o.QueueFramesMax, 4096)
	orElse(&o.QueueBytesMax, 4<<20)
	orElse(&o.PendingFramesMax, 1024)
	orElse(&o.PendingBytesMax, 16<<20)
	o.PendingBytesMax = max(o.PendingBytesMax, pendingBytesLeast)
	return o
}

func orElse[T int | time.Duration](v *T, other T) {
	if *v <= 0 {
		*v = other
	}
}

func (o *Options) check() error {
	const op = "link.Options"
	switch {
	case o.Pool == nil:
		return fault.Errorf(op, fault.Invalid, "a connection needs a pool")
	case o.Credentials == nil && !o.Clear:
		return fault.WithCure(fault.Errorf(op, fault.Invalid, "there is no certificate for this node"),
			"give it one, or allow connections without TLS")
	case o.Credentials != nil && o.Clear:
		return fault.Errorf(op, fault.Invalid, "a connection is either in the clear or has credentials")
	}
	if _, err := wire.Append(nil, wire.Tag{}, &o.Self); err != nil {
		return fault.Wrap(op, err)
	}
	return nil
}
