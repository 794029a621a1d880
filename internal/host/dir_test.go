package host

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
)

func TestCloseWaitsForTheFilesOps(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		o.Depth = 2 // so that most are still in the queue
		d := openDir(t, t.TempDir(), o)
		f := mustOpen(t, d, "file", Create)
		done, closed := 0, false
		for i := range 50 {
			d.Submit(&Op{Kind: OpWrite, File: f, Offset: int64(i), Buf: []byte("x"), Done: func(op *Op) {
				if op.Err != nil || closed {
					t.Errorf("write %d: after the close: %v, %v", i, closed, op.Err)
				}
				done++
			}})
		}
		d.Submit(&Op{Kind: OpClose, File: f, Done: func(op *Op) {
			if closed = true; op.Err != nil || done != 50 {
				t.Errorf("closed with %d of 50 writes done: %v", done, op.Err)
			}
		}})
		for _, kind := range []Kind{OpRead, OpSync, OpClose} { // too late, though the file is still open
			d.Submit(&Op{Kind: kind, File: f, Done: func(op *Op) {
				if !fault.Is(op.Err, fault.Invalid) {
					t.Errorf("%v after close was submitted: %v, want invalid", kind, op.Err)
				}
			}})
		}
		for d.InFlight() > 0 {
			d.Poll(-1)
		}
		if !closed {
			t.Error("the file was not closed")
		}
	})
}

func TestOldHandleIsNotTheNextFile(t *testing.T) {
	d := openDir(t, t.TempDir(), Options{})
	seen := map[File]bool{}
	var last File
	for range fileTurns {
		f := mustOpen(t, d, "file", Create)
		if f <= 0 || seen[f] {
			t.Fatalf("handle %#x came twice", f)
		}
		seen[f] = true
		if last != 0 {
			if err := Do(d, &Op{Kind: OpStat, File: last}); !fault.Is(err, fault.Invalid) {
				t.Fatalf("stat of a handle that was closed: %v, want invalid", err)
			}
		}
		must(t, d, &Op{Kind: OpClose, File: f})
		last = f
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	bothEngines(t, func(t *testing.T, o Options) {
		d := openDir(t, t.TempDir(), o)
		f := mustOpen(t, d, "file", Create|Direct)
		const depth = 16
		left := 0
		done := func(op *Op) {
			if op.Err != nil || op.Kind != OpSync && op.N != Align {
				t.Errorf("%v of %d bytes: %v", op.Kind, op.N, op.Err)
			}
			left--
		}
		ops := make([]*Op, depth)
		for i := range ops {
			ops[i] = &Op{File: f, Offset: int64(i) * Align, Buf: Buffer(Align), Done: done}
		}
		for _, kind := range []Kind{OpWrite, OpRead, OpSync} {
			round := func() {
				left = depth
				for _, op := range ops {
					op.Kind = kind
				}
				d.Submit(ops...)
				for left > 0 {
					d.Poll(-1)
				}
			}
			// On a busy machine the runtime allocates at times, for its threads and for those who
			// wait for one. What is ours is there every time.
			allocs := testing.AllocsPerRun(100, round)
			for range 4 {
				allocs = min(allocs, testing.AllocsPerRun(100, round))
			}
			if allocs > 0 {
				t.Errorf("%d times %v: %v allocations", depth, kind, allocs)
			}
		}
	})
}

func TestSymbolicLinksAreNotFollowed(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"file": filepath.Join(outside, "secret"), "dir": outside, "up": ".."} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	d := openDir(t, root, Options{})
	ops := []*Op{
		{Kind: OpOpen, Path: "file"},
		{Kind: OpOpen, Path: "dir/secret"},
		{Kind: OpOpen, Path: "up/x", Flags: Create},
		{Kind: OpList, Path: "dir"},
		{Kind: OpSyncDir, Path: "up"},
		{Kind: OpRemove, Path: "dir/secret"},
		{Kind: OpMkdir, Path: "dir/made"},
		{Kind: OpRename, Path: "dir/secret", To: "stolen"},
		{Kind: OpLink, Path: "dir/secret", To: "stolen"},
	}
	for _, op := range ops {
		if err := Do(d, op); !fault.Is(err, fault.Invalid) {
			t.Errorf("%v %s: %v, want invalid", op.Kind, op.Path, err)
		}
	}
	must(t, d, &Op{Kind: OpRemove, Path: "dir"}) // the link itself may go
	if _, err := os.Stat(filepath.Join(outside, "secret")); err != nil {
		t.Error(err)
	}
}

func TestRootMayBeASymbolicLink(t *testing.T) {
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, openDir(t, link, Options{}), "file", Create)
}

func TestOpenWantsADirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for root, kind := range map[string]fault.Kind{file: fault.Invalid, file + "-no": fault.NotFound} {
		if _, err := Open(root, Options{}); !fault.Is(err, kind) || !strings.Contains(err.Error(), root) {
			t.Errorf("Open of %s: %v, want %v and its name", root, err, kind)
		}
	}
}

func TestSpecialFilesAreNotOpened(t *testing.T) {
	root := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(root, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, root, Options{})
	if err := Do(d, &Op{Kind: OpOpen, Path: "pipe"}); !fault.Is(err, fault.Invalid) {
		t.Errorf("opening a pipe: %v, want invalid", err)
	}
}

func TestErrorsNameTheFileAndTheCure(t *testing.T) {
	root := t.TempDir()
	d := openDir(t, root, Options{})
	f := mustOpen(t, d, "volume", Create|Lock)
	tests := []struct {
		op   Op
		kind fault.Kind
		want []string
	}{
		{Op{Kind: OpOpen, Path: "volume", Flags: Lock}, fault.Busy, []string{"host.open", root + "/volume", "stop the process"}},
		{Op{Kind: OpOpen, Path: "none"}, fault.NotFound, []string{root + "/none"}},
		{Op{Kind: OpRename, Path: "none", To: "other"}, fault.NotFound, []string{root + "/none", root + "/other"}},
		{Op{Kind: OpWrite, File: f, Offset: 1<<63 - 4097, Buf: make([]byte, 4096)}, fault.Invalid, []string{"host.write", root + "/volume", "4096 bytes"}},
		{Op{Kind: OpRead, File: f, Offset: -5}, fault.Invalid, []string{"host.read", root + "/volume", "-5"}},
	}
	for _, test := range tests {
		err := Do(d, &test.op)
		if !fault.Is(err, test.kind) {
			t.Errorf("%v: %v, want %v", test.op.Kind, err, test.kind)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q lacks %q", err, want)
			}
		}
	}
}

// What the ring can't do now, because it would have to wait, a worker does.
func TestWorkerDoesWhatTheRingPutsOff(t *testing.T) {
	d := openDir(t, t.TempDir(), Options{Engine: EngineRing})
	f := mustOpen(t, d, "file", Create)
	for _, errno := range []syscall.Errno{syscall.EAGAIN, syscall.EINTR} {
		done := false
		d.Submit(&Op{Kind: OpWrite, File: f, Buf: []byte("data"), Done: func(op *Op) {
			if done = true; op.Err != nil || op.N != 4 {
				t.Errorf("after %v: %d bytes, %v", errno, op.N, op.Err)
			}
		}})
		s := d.free // as send takes it
		d.free = s.next
		s.op, s.next, s.file = d.queue.pop(), nil, d.files.get(f)
		s.moved, s.err = 0, nil
		d.answer(s, -int(errno))
		for !done {
			d.Poll(-1)
		}
	}
}

func TestShortTransfersGoOn(t *testing.T) {
	big := make([]byte, 4*Align)
	tests := []struct {
		name   string
		kind   Kind
		direct bool
		moved  int // before
		n      int
		more   bool
		after  int
		err    error
	}{
		{"whole read", OpRead, false, 0, 4 * Align, false, 4 * Align, nil},
		{"short read", OpRead, false, 0, 100, true, 100, nil},
		{"end of file", OpRead, false, 100, 0, false, 100, nil},
		{"short direct read", OpRead, true, 0, Align, true, Align, nil},
		{"direct read ends between blocks", OpRead, true, 0, Align + 512, false, Align + 512, nil},
		{"whole write", OpWrite, true, Align, 3 * Align, false, 4 * Align, nil},
		{"short write", OpWrite, false, 0, 100, true, 100, nil},
		{"short direct write goes on aligned", OpWrite, true, 0, Align + 512, true, Align, nil},
		{"direct write of less than a block", OpWrite, true, Align, 512, false, Align, syscall.EIO},
		{"write of nothing", OpWrite, false, 100, 0, false, 100, syscall.EIO},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &slot{op: &Op{Kind: test.kind, Buf: big}, file: &file{direct: test.direct}, moved: test.moved}
			if more := s.advance(test.n); more != test.more || s.moved != test.after || s.err != test.err {
				t.Errorf("more %v, moved %d, %v; want %v, %d, %v", more, s.moved, s.err, test.more, test.after, test.err)
			}
		})
	}
}
