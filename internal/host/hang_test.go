package host_test

import (
	"context"
	"testing"

	"github.com/holdfast-io/holdfast/internal/host"
)

// TestHangingDiskLeavesOthersOfItsLoopAlone freezes one disk's filesystem, has every
// slot and worker of it hang there, and uses another disk of the same loop meanwhile.
func TestHangingDiskLeavesOthersOfItsLoopAlone(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			root := filesystems[1].mount(t, 512<<20)
			o := v.options
			o.Depth, o.Threads = 8, 2
			l, err := host.NewLoop(o)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(l.Close)
			hanging, healthy := openOn(t, l, root), openOn(t, l, t.TempDir())
			if err := freezer(root, fiFreeze); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = freezer(root, fiThaw) })
			const hung = 20
			l.Post(func() {
				thawed := false
				for i := range hung {
					hanging.Submit(&host.Op{Kind: host.OpMkdir, Path: string(rune('a' + i)), Done: func(op *host.Op) {
						if !thawed || op.Err != nil {
							t.Errorf("mkdir on a frozen filesystem: done before it was thawed: %v; %v", !thawed, op.Err)
						}
					}})
				}
				for _, path := range []string{"a", "b", "c"} {
					must(t, healthy, &host.Op{Kind: host.OpMkdir, Path: path})
					file := &host.Op{Kind: host.OpOpen, Path: path + "/file", Flags: host.Create | host.Direct}
					must(t, healthy, file)
					must(t, healthy, &host.Op{Kind: host.OpWrite, File: file.File, Buf: host.Buffer(host.Align)})
					must(t, healthy, &host.Op{Kind: host.OpSync, File: file.File})
				}
				if n := hanging.InFlight(); n != hung {
					t.Errorf("%d of %d ops hang", n, hung)
				}
				thawed = true
				if err := freezer(root, fiThaw); err != nil {
					t.Error(err)
				}
				l.Stop()
			})
			l.Run(context.Background())
			if n := hanging.InFlight(); n != 0 {
				t.Errorf("the loop ended with %d ops in flight", n)
			}
		})
	}
}

func openOn(t *testing.T, l *host.Loop, root string) *host.Dir {
	t.Helper()
	d, err := l.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
