package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

func TestDirectFallsBackWhereTheFilesystemRefuses(t *testing.T) {
	root := mount(t, "-t", "ramfs", "ramfs")
	for _, v := range variants {
		d := open(t, root, v.options)
		if d.Buffered() {
			t.Error("a new disk says that direct I/O was refused")
		}
		op := &host.Op{Kind: host.OpOpen, Path: v.name, Flags: host.Create | host.Exclusive | host.Direct}
		must(t, d, op)
		if !d.Buffered() {
			t.Error("a disk on ramfs does not say that direct I/O was refused")
		}
		write := &host.Op{Kind: host.OpWrite, File: op.File, Buf: host.Buffer(2 * host.Align)}
		if err := host.Do(d, write); err != nil || write.N != 2*host.Align {
			t.Errorf("%d bytes written: %v", write.N, err)
		}
		write.Buf = write.Buf[:100] // refused here too, for it would be elsewhere
		if err := host.Do(d, write); !fault.Is(err, fault.Invalid) {
			t.Errorf("an unaligned direct write: %v, want invalid", err)
		}
	}
}

func TestFullFilesystemIsNoSpace(t *testing.T) {
	root := filesystems[0].mount(t, 64<<20)
	for _, v := range variants {
		d := open(t, root, v.options)
		op := &host.Op{Kind: host.OpOpen, Path: v.name, Flags: host.Create | host.Direct}
		must(t, d, op)
		write := &host.Op{Kind: host.OpWrite, File: op.File, Buf: host.Buffer(8 << 20)}
		for host.Do(d, write) == nil {
			write.Offset += int64(len(write.Buf))
		}
		if !fault.Is(write.Err, fault.NoSpace) {
			t.Errorf("writing to a full filesystem: %v, want no space", write.Err)
		}
		if _, cure := fault.Describe(write.Err); cure == "" {
			t.Errorf("%q has no cure", write.Err)
		}
		allocate := &host.Op{Kind: host.OpAllocate, File: op.File, Length: 1 << 30}
		if err := host.Do(d, allocate); !fault.Is(err, fault.NoSpace) {
			t.Errorf("allocating on a full filesystem: %v, want no space", err)
		}
		must(t, d, &host.Op{Kind: host.OpTruncate, File: op.File})
		write.Offset = 0
		if err := host.Do(d, write); err != nil {
			t.Errorf("writing after space was freed: %v", err)
		}
		must(t, d, &host.Op{Kind: host.OpRemove, Path: v.name})
		must(t, d, &host.Op{Kind: host.OpClose, File: op.File})
	}
}

// A loop device whose file was cut off under it fails reads as a dying disk does.
func TestDeviceErrorIsMedia(t *testing.T) {
	root, image := filesystems[0].mountImage(t, 64<<20)
	for _, v := range variants {
		d := open(t, root, v.options)
		op := &host.Op{Kind: host.OpOpen, Path: v.name, Flags: host.Create | host.Direct}
		buf := host.Buffer(1 << 20)
		must(t, d, op)
		must(t, d, &host.Op{Kind: host.OpWrite, File: op.File, Buf: buf})
		must(t, d, &host.Op{Kind: host.OpSync, File: op.File})
		if err := os.Truncate(image, 1<<20); err != nil {
			t.Fatal(err)
		}
		err := host.Do(d, &host.Op{Kind: host.OpRead, File: op.File, Buf: buf})
		if restored := os.Truncate(image, 64<<20); restored != nil {
			t.Fatal(restored)
		}
		if !fault.Is(err, fault.Media) || !strings.Contains(err.Error(), v.name) {
			t.Errorf("reading from a device that lost its data: %v, want media error and the file's name", err)
		}
	}
}

func TestDirectWritesOnXFSLeaveTheTimesAlone(t *testing.T) {
	root := filesystems[1].mount(t, 300<<20)
	for _, v := range variants {
		d := open(t, root, v.options)
		op := &host.Op{Kind: host.OpOpen, Path: v.name, Flags: host.Create | host.Exclusive | host.Direct | host.Lock}
		must(t, d, op)
		long := time.Unix(1e9, 0)
		if err := os.Chtimes(filepath.Join(root, v.name), long, long); err != nil {
			t.Fatal(err)
		}
		must(t, d, &host.Op{Kind: host.OpWrite, File: op.File, Buf: host.Buffer(host.Align)})
		must(t, d, &host.Op{Kind: host.OpSync, File: op.File})
		info, err := os.Stat(filepath.Join(root, v.name))
		if err != nil {
			t.Fatal(err)
		}
		if !info.ModTime().Equal(long) || info.Size() != host.Align {
			t.Errorf("after a direct write: %d bytes, of %v, want them of %v", info.Size(), info.ModTime(), long)
		}
		again := &host.Op{Kind: host.OpOpen, Path: v.name, Flags: host.Direct | host.Lock}
		if err := host.Do(open(t, root, v.options), again); !fault.Is(err, fault.Busy) {
			t.Errorf("the file's lock is not held: %v", err)
		}
	}
}
