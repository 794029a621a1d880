package pool

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host/patiently"
)

func wipe(path string, o WipeOptions) error { return Wipe(context.Background(), path, o) }

func TestWipeDestroysOnlyThePoolThatIsNamed(t *testing.T) {
	dir := needRoot(t)
	d := newDisk(t, dir, "disk", xfsBytesMin)
	for kind, o := range map[Kind]CreateOptions{
		Directory: {Kind: Directory, Force: true},
		Image:     {Kind: Image, SizeBytes: xfsBytesMin},
		Device:    {Device: d.device()},
	} {
		t.Run(string(kind), func(t *testing.T) {
			o.Path = filepath.Join(dir, string(kind))
			p := mustCreate(t, o)
			id, check := p.Identity(), keep(t, p)
			wantFault(t, wipe(o.Path, WipeOptions{Pool: id.Pool}), fault.Busy)
			p.KeepMounted()
			must(t, p.Close())
			must(t, os.WriteFile(filepath.Join(o.Path, "mine"), nil, 0o600))

			wantFault(t, wipe(o.Path, WipeOptions{}), fault.Precondition, wipeCommand(o.Path, id.Pool))
			wantFault(t, wipe(o.Path, WipeOptions{Pool: block.PoolID{1}}), fault.Precondition, clusterA.String())
			wantFault(t, wipe(o.Path, WipeOptions{Damaged: true}), fault.Precondition)
			p = mustOpen(t, o.Path)
			check(p)
			must(t, p.Close())

			must(t, wipe(o.Path, WipeOptions{Pool: id.Pool}))
			if got := names(t, o.Path); got != "mine" {
				t.Errorf("the wipe left %s", got)
			}
			_, err := open(t, o.Path)
			wantFault(t, err, fault.NotFound)
		})
	}
	if found, err := contentsOf(context.Background(), d.device()); err != nil || len(found) > 0 {
		t.Errorf("the wiped device carries %v, %v", found, err)
	}
}

func TestDamagedPoolIsWipedOnlyWhenThatIsSaid(t *testing.T) {
	dir := needRoot(t)
	for _, kind := range []Kind{Directory, Image} {
		path := filepath.Join(dir, string(kind))
		o := CreateOptions{Path: path, Kind: kind, Force: true}
		if kind == Image {
			o.SizeBytes = xfsBytesMin
		}
		p := mustCreate(t, o)
		must(t, p.Close())
		for _, name := range []string{identityName, copyName} {
			must(t, os.WriteFile(filepath.Join(path, name), []byte("?"), 0o600))
		}
		_, err := open(t, path)
		wantFault(t, err, fault.Corrupt, "holdfast pool wipe "+path+" --damaged")
		wantFault(t, wipe(path, WipeOptions{Pool: p.Identity().Pool}), fault.Corrupt)
		must(t, wipe(path, WipeOptions{Damaged: true}))
		if got := names(t, path); got != "" {
			t.Errorf("the wipe left %s", got)
		}
	}
}

func TestPoolWhoseDeviceIsLostIsWipedOnlyWhenThatIsSaid(t *testing.T) {
	dir := needRoot(t)
	path := filepath.Join(dir, "pool")
	d := newDisk(t, dir, "disk", xfsBytesMin)
	p := mustCreate(t, CreateOptions{Path: path, Device: d.device()})
	must(t, p.Close())
	d.takeOut()
	wantFault(t, wipe(path, WipeOptions{Pool: p.Identity().Pool}), fault.NotFound, "attach the device")
	must(t, wipe(path, WipeOptions{Pool: p.Identity().Pool, Damaged: true}))
	if got := names(t, path); got != "" {
		t.Errorf("the wipe left %s", got)
	}
	d.putIn() // it comes back after all, and is still not overwritten
	_, err := create(t, CreateOptions{Path: path, Device: d.device()})
	wantFault(t, err, fault.Precondition, `labelled "holdfast"`)
}

func TestInterruptedWipeIsFinished(t *testing.T) {
	dir := needRoot(t)
	path := filepath.Join(dir, "pool")
	p := imagePool(t, path)
	must(t, p.Close())
	must(t, setAside(path))
	_, err := open(t, path)
	wantFault(t, err, fault.Precondition, "half wiped")
	wantFault(t, wipe(path, WipeOptions{}), fault.Precondition, "--damaged")
	must(t, wipe(path, WipeOptions{Pool: p.Identity().Pool}))
	if got := names(t, path); got != "" {
		t.Errorf("the wipe left %s", got)
	}
}

// A container that starts has a copy of every mount for a moment.
func TestPoolIsWipedThoughAnotherNamespaceStillHasItsMount(t *testing.T) {
	path := filepath.Join(needRoot(t), "pool")
	p := imagePool(t, path)
	p.KeepMounted()
	must(t, p.Close())
	other := exec.CommandContext(patiently.Context(t), "unshare", "--mount", "--propagation", "private", "sh", "-c", "echo there; read end")
	in, err := other.StdinPipe()
	must(t, err)
	out, err := other.StdoutPipe()
	must(t, err)
	must(t, other.Start())
	_, err = out.Read(make([]byte, len("there\n")))
	must(t, err)
	wiped := make(chan error, 1)
	go func() { wiped <- wipe(path, WipeOptions{Pool: p.Identity().Pool}) }()
	patiently.True(t, "it is unmounted here", func() bool { return !mounted(path) })
	must(t, in.Close())
	_ = other.Wait() // its input ended, which is no line
	must(t, patiently.From(t, wiped))
}
