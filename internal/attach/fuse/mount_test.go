package fuse

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/attachtest"
	filesystem "github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

// The process that serves a device makes, mounts, freezes and grows the filesystem on it;
// and while it can't serve, it gives such a verb up, instead of waiting for itself.
func TestFilesystemOnADeviceOfThisProcess(t *testing.T) {
	d := newDesk(t)
	gate := attachtest.NewGate(d.memory, d.loop)
	f := d.start(func(o *attach.Options, _ *Config) { o.Backend, o.Size = gate, 320<<20 })
	ctx, link, dir := patiently.Context(t), f.Device().Link, filepath.Join(t.TempDir(), "mnt")
	must(t, filesystem.Make(ctx, link, filesystem.MakeOptions{Kind: filesystem.XFS}))
	must(t, filesystem.Mount(ctx, link, dir, filesystem.Options{Flags: []string{"discard"}}))
	t.Cleanup(func() { gate.Open(); _ = filesystem.Unmount(context.Background(), dir) })
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("bytes"), 0o600))
	must(t, filesystem.Frozen(ctx, dir, func() error { return nil }))
	must(t, f.Resize(ctx, 640<<20))
	must(t, filesystem.Grow(ctx, link))
	if _, err := filesystem.Trim(ctx, dir); err != nil {
		t.Error(err)
	}
	must(t, filesystem.Unmount(ctx, dir))

	gate.Close()
	stuck, cancel := context.WithCancel(ctx)
	checked := make(chan error, 1)
	go func() {
		checked <- filesystem.Make(stuck, link, filesystem.MakeOptions{Kind: filesystem.XFS, Force: true})
	}()
	must(t, gate.Await(1)) // the device has been asked, and does not answer
	cancel()
	wantKind(t, patiently.From(t, checked), fault.Canceled)
	gate.Open()
}
