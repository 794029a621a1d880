package host_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// ioctls of linux/fs.h: while a filesystem is frozen, writes to it wait in the kernel.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

const lockedBlocks = 64

// TestLockOutlivesKilledProcessUntilItsWritesEnd kills a process whose writes hang in
// a frozen filesystem: it is gone, its writes are not, so the file must stay locked.
// Once the lock can be had, nothing of the dead process may change the file.
func TestLockOutlivesKilledProcessUntilItsWritesEnd(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			root := filesystems[1].mount(t, 512<<20)
			thaw := func() { _ = freezer(root, fiThaw) }
			t.Cleanup(thaw)
			child, out := startChild(t, "freeze", v.name, root)
			if line, err := out.ReadString('\n'); err != nil || line != "writing\n" {
				t.Fatalf("the child said %q: %v", line, err)
			}
			pid := child.Process.Pid
			patiently.True(t, "the kernel has a write", func() bool { return strings.Contains(threadStates(t, pid), "D") })
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			patiently.True(t, "it runs no more", func() bool { return strings.Trim(threadStates(t, pid), "DZX") == "" })
			d := open(t, root, v.options)
			lock := &host.Op{Kind: host.OpOpen, Path: "file", Flags: host.Lock | host.Direct}
			if err := host.Do(d, lock); !fault.Is(err, fault.Busy) {
				t.Fatalf("locking a file that a dead process still writes: %v, want busy", err)
			}
			thaw()
			patiently.Until(t, func() error {
				err := host.Do(d, lock)
				if err != nil && !fault.Is(err, fault.Busy) {
					t.Fatal(err)
				}
				return err
			})
			write(t, d, lock.File)
			_ = child.Wait() // what is left of it is gone now
			compare(t, d, lock.File)
		})
	}
}

// threadStates returns a letter for each thread of a process: R and S run or could, D
// is stuck in the kernel, Z and X are dead.
func threadStates(t *testing.T, pid int) string {
	t.Helper()
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(stats) == 0 {
		t.Fatalf("process %d is gone, its writes with it (%v)", pid, err)
	}
	var states []byte
	for _, stat := range stats {
		if text, err := os.ReadFile(stat); err == nil { // or that thread is gone
			states = append(states, text[bytes.LastIndexByte(text, ')')+2])
		}
	}
	return string(states)
}

func write(t *testing.T, d host.Disk, f host.File) {
	t.Helper()
	own := bytes.Repeat([]byte("n"), lockedBlocks*host.Align)
	buf := host.Buffer(len(own))
	copy(buf, own)
	must(t, d, &host.Op{Kind: host.OpWrite, File: f, Buf: buf})
}

func compare(t *testing.T, d host.Disk, f host.File) {
	t.Helper()
	seen := host.Buffer(lockedBlocks * host.Align)
	must(t, d, &host.Op{Kind: host.OpRead, File: f, Buf: seen})
	if i := bytes.IndexFunc(seen, func(r rune) bool { return r != 'n' }); i >= 0 {
		t.Fatalf("byte %d is %q: a write of the dead process arrived after its lock was taken over", i, seen[i])
	}
}

// freezeAndWrite is the child: it freezes the filesystem and then has a write of
// every block in flight.
func freezeAndWrite(root, engine string) error {
	d, err := host.Open(root, variants[engineNamed(engine)].options)
	if err != nil {
		return err
	}
	lock := &host.Op{Kind: host.OpOpen, Path: "file", Flags: host.Create | host.Direct | host.Lock}
	if err := host.Do(d, lock); err != nil {
		return err
	}
	data := host.Buffer(lockedBlocks * host.Align)
	fill := &host.Op{Kind: host.OpWrite, File: lock.File, Buf: data}
	if err := host.Do(d, fill); err != nil {
		return err
	}
	if err := freezer(root, fiFreeze); err != nil {
		return err
	}
	for i := range data {
		data[i] = 'o'
	}
	for i := range lockedBlocks {
		at := i * host.Align
		d.Submit(&host.Op{Kind: host.OpWrite, File: lock.File, Offset: int64(at), Buf: data[at : at+host.Align],
			Done: func(*host.Op) { panic("a write to a frozen filesystem was done") }})
	}
	d.Poll(0) // now they are the kernel's
	fmt.Println("writing")
	d.Poll(-1)
	return nil
}

func freezer(root string, request uint) error {
	dir, err := os.Open(filepath.Clean(root))
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.IoctlSetInt(int(dir.Fd()), request, 0)
}
