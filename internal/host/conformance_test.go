package host_test

import (
	"os"
	"testing"

	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/host/hosttest"
)

// variants are the ways in which a disk does its work.
var variants = []struct {
	name    string
	options host.Options
}{
	{"ring", host.Options{Engine: host.EngineRing}},
	{"pool", host.Options{Engine: host.EnginePool}},
}

func TestDisk(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { conform(t, t.TempDir(), v.options) })
	}
	// Rings that are always full, and one operation at a time.
	t.Run("TinyRing", func(t *testing.T) { conform(t, t.TempDir(), host.Tiny(host.Options{Engine: host.EngineRing})) })
	t.Run("OneSlot", func(t *testing.T) { conform(t, t.TempDir(), host.Options{Depth: 1, Threads: 1}) })
}

func TestDiskOnFilesystems(t *testing.T) {
	for _, fs := range filesystems {
		t.Run(fs.name, func(t *testing.T) {
			root := fs.mount(t, 1<<30)
			for _, v := range variants {
				t.Run(v.name, func(t *testing.T) { conform(t, root, v.options) })
			}
		})
	}
}

// conform runs the suite on disks in directories below root.
func conform(t *testing.T, root string, o host.Options) {
	hosttest.TestDisk(t, func(t *testing.T) host.Disk {
		dir, err := os.MkdirTemp(root, "disk")
		if err != nil {
			t.Fatal(err)
		}
		d := open(t, dir, o)
		t.Cleanup(func() {
			if err := os.RemoveAll(dir); err != nil {
				t.Error(err)
			}
		})
		return d
	})
}

// open opens a disk that is closed when the test ends.
func open(t *testing.T, root string, o host.Options) *host.Dir {
	t.Helper()
	d, err := host.Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// must does op, which must succeed.
func must(t *testing.T, d host.Disk, op *host.Op) {
	t.Helper()
	if err := host.Do(d, op); err != nil {
		t.Fatal(err)
	}
}
