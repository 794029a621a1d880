package attach

import (
	"log/slog"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Sizes and limits.
const (
	// IOBytesMax is the longest read or write that a backend is given, in bytes.
	IOBytesMax = 1 << 20
	// SmallBytesMax is the longest read or write, in bytes, that does not count as large.
	SmallBytesMax = 64 << 10
	// DepthMax is the largest Options.Depth.
	DepthMax = 1024
	// NameLengthMax is the length of the longest name of a volume.
	NameLengthMax = 200
)

// DefaultLinkDir is where devices are found under their volumes' names.
const DefaultLinkDir = "/dev/holdfast"

// DefaultWait is how long I/O waits for somebody to serve it, unless Options.Wait says
// otherwise.
const DefaultWait = 10 * time.Minute

// Options say what a front end shows and how. Loop, Backend, Volume, Node, Name and Size
// are needed; zero values of the rest mean what their comments say.
type Options struct {
	Loop    *host.Loop
	Backend Backend

	Volume block.VolumeID
	Node   block.NodeID // whose device it is: several nodes may live on one machine
	Name   string       // see ValidName
	Size   int64        // bytes; a multiple of BlockSize

	BlockSize int  // logical block in bytes: 4096, or 512 for software that insists; 0 is 4096
	ReadOnly  bool // writes and zeros are refused before they reach the backend
	NoDiscard bool // the device offers no discard, and no Zero has Unmap

	// Depth is how many requests are in flight at most, LargeDepth how many of them may
	// be longer than SmallBytesMax; more wait in the kernel. 0 is 128 and 16.
	Depth, LargeDepth int

	// Wait is how long I/O waits while nobody serves the device before it fails; 0 is
	// DefaultWait.
	Wait time.Duration
	// Fence is called on the loop's goroutine when a device is taken over, and calls done
	// there when nothing that a predecessor began can take effect any more. A write of
	// a dead process may still be in a disk's queue or in a socket; landing late, it
	// would undo a newer one. A read of a dead process may still land in a buffer that
	// is used again. nil means that the backend needs no fence.
	Fence func(done func(error))

	LinkDir string       // directory of the stable names; "" is DefaultLinkDir
	Log     *slog.Logger // nil is slog.Default
}

// MemoryBytesMax returns how much memory the requests of a front end with these
// options take at most, once WithDefaults was called.
func (o Options) MemoryBytesMax() int64 {
	const header = host.Align
	return int64(o.Depth)*(header+SmallBytesMax) + int64(o.LargeDepth)*IOBytesMax
}

// WithDefaults returns o with defaults filled in, or fault.Invalid with what is wrong.
func (o Options) WithDefaults() (Options, error) {
	if o.BlockSize == 0 {
		o.BlockSize = block.Size
	}
	if o.Depth == 0 {
		o.Depth = 128
	}
	if o.LargeDepth == 0 {
		o.LargeDepth = min(16, o.Depth)
	}
	if o.Wait == 0 {
		o.Wait = DefaultWait
	}
	if o.LinkDir == "" {
		o.LinkDir = DefaultLinkDir
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o, o.check()
}

func (o *Options) check() error {
	wrong := func(format string, args ...any) error {
		return fault.Errorf("attach.Options", fault.Invalid, format, args...)
	}
	switch {
	case o.Loop == nil || o.Backend == nil:
		return wrong("a loop and a backend are needed")
	case !ValidName(o.Name):
		return wrong("volume name %q can't be a device name: use letters, digits, dots, dashes and underscores, "+
			"at most %d, the first a letter or digit", o.Name, NameLengthMax)
	case o.BlockSize != block.Size && o.BlockSize != 512:
		return wrong("logical block of %d bytes: use 4096 or 512", o.BlockSize)
	case o.Depth < 1 || o.Depth > DepthMax || o.LargeDepth < 1 || o.LargeDepth > o.Depth:
		return wrong("depth %d with %d large: use 1 to %d, of which 1 to all are large", o.Depth, o.LargeDepth, DepthMax)
	case o.Wait < 0:
		return wrong("I/O can't wait for %v", o.Wait)
	}
	return o.checkSize(o.Size)
}

func (o *Options) checkSize(size int64) error {
	if size <= 0 || size > block.VolumeSizeMax || size%int64(o.BlockSize) != 0 {
		return fault.Errorf("attach.Options", fault.Invalid, "size of %d bytes: use a positive multiple of %d, at most %d",
			size, o.BlockSize, int64(block.VolumeSizeMax))
	}
	return nil
}

// CheckResize returns what is wrong with making a device of o.Size bytes size bytes
// long: nil, or fault.Invalid.
func (o *Options) CheckResize(size int64) error {
	if size < o.Size {
		return fault.Errorf("attach.Resize", fault.Invalid, "a device of %d bytes can't shrink to %d", o.Size, size)
	}
	return o.checkSize(size)
}

// ValidName reports whether a volume of that name can be attached: 1 to NameLengthMax
// of letters, digits, dots, dashes and underscores, the first a letter or digit.
func ValidName(name string) bool {
	const first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return name != "" && len(name) <= NameLengthMax &&
		strings.ContainsRune(first, rune(name[0])) && strings.Trim(name, first+"._-") == ""
}
