package host

// Engine says by what means a loop does I/O.
type Engine uint8

const (
	// EngineAuto is EngineRing where the kernel has io_uring and permits it, and
	// EnginePool elsewhere.
	EngineAuto Engine = iota
	// EngineRing is io_uring: one system call sends and awaits many operations.
	EngineRing
	// EnginePool is a pool of goroutines in blocking calls.
	EnginePool
)

// String names the engine: auto, ring or pool.
func (e Engine) String() string {
	switch e {
	case EngineAuto:
		return "auto"
	case EngineRing:
		return "ring"
	case EnginePool:
		return "pool"
	}
	return "unknown"
}

// Options are what can be chosen about a loop and its disks. The zero value is right
// for a node.
type Options struct {
	// Engine forces a means of I/O.
	Engine Engine
	// Depth is how many operations of one disk the kernel is given at once; more wait
	// in the disk. 0 is 256.
	Depth int
	// Threads is how many goroutines of one disk make blocking calls: of the
	// operations that have no place in a ring, or of all. 0 is 4 beside a ring and
	// 16 without.
	Threads int
	// Inbox is how many posted functions wait in a loop at most. 0 is 1024.
	Inbox int

	entries, completions uint32 // of the rings, so that tests can have tiny ones
}

func (o Options) withDefaults() Options {
	o.entries, o.completions = defaultTo(o.entries, ringEntries), defaultTo(o.completions, ringCompletions)
	o.Depth, o.Inbox = defaultTo(o.Depth, 256), defaultTo(o.Inbox, 1024)
	return o
}

func defaultTo[T int | uint32](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}
