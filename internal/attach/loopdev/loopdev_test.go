package loopdev

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/holdfast-io/holdfast/internal/fault"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// attached returns a device over a file of size bytes, and the file.
func attached(t *testing.T, size int64, change func(*Config)) (*Device, *os.File) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	must(t, f.Truncate(size))
	c := Config{Backing: int(f.Fd()), Name: "test", BlockSize: 4096}
	if change != nil {
		change(&c)
	}
	d, err := Attach(c)
	must(t, err)
	t.Cleanup(d.Close)
	return d, f
}

func TestDeviceLivesAsLongAsItIsHeld(t *testing.T) {
	d, f := attached(t, 1<<20, nil)
	list, err := List()
	must(t, err)
	if !slices.Contains(list, Found{Number: d.Number, Backing: f.Name()}) {
		t.Errorf("%s is not in %v", d.Path(), list)
	}
	if size, err := d.Size(); err != nil || size != 1<<20 {
		t.Errorf("size %d (%v)", size, err)
	}
	again, err := Hold(d.Number)
	must(t, err)
	d.Close()
	if backing, ok := Backing(again.Number); !ok || backing != f.Name() {
		t.Errorf("it is over %q (%v) while it is held", backing, ok)
	}
	held, err := Held(again.FD())
	must(t, err)
	if held.Number != again.Number || held.Path() != again.Path() {
		t.Errorf("the descriptor is of %s, not %s", held.Path(), again.Path())
	}
	must(t, Sync(again.Path()))
	again.Close()
	again.Close()
	if backing, ok := Backing(again.Number); ok && backing == f.Name() {
		t.Error("it is there though nobody holds it")
	}
}

func TestSizeFollowsTheFile(t *testing.T) {
	d, f := attached(t, 1<<20, nil)
	must(t, f.Truncate(3<<20))
	must(t, d.UpdateSize())
	if size, err := d.Size(); err != nil || size != 3<<20 {
		t.Errorf("size %d (%v)", size, err)
	}
}

func TestClaimsAndUsersAreSeen(t *testing.T) {
	d, _ := attached(t, 1<<20, nil)
	if claimed, err := d.Claimed(); claimed || err != nil {
		t.Errorf("claimed %v (%v)", claimed, err)
	}
	claim, err := os.OpenFile(d.Path(), os.O_RDONLY|os.O_EXCL, 0)
	must(t, err)
	defer claim.Close()
	if claimed, err := d.Claimed(); !claimed || err != nil {
		t.Errorf("claimed %v (%v)", claimed, err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	must(t, err)
	cmd.ExtraFiles = []*os.File{claim}
	must(t, cmd.Start())
	if users := d.Users(); !slices.Equal(users, []int{cmd.Process.Pid}) {
		t.Errorf("users are %v, want %d", users, cmd.Process.Pid)
	}
	must(t, in.Close())
	must(t, cmd.Wait())
}

func TestReadOnlyAndDetach(t *testing.T) {
	d, f := attached(t, 1<<20, func(c *Config) { c.ReadOnly = true })
	if w, err := os.OpenFile(d.Path(), os.O_RDWR, 0); err == nil { // some kernels refuse only the write
		if _, err := w.WriteAt(make([]byte, 4096), 0); err == nil {
			t.Error("it can be written")
		}
		w.Close()
	}
	must(t, Detach(d.Number)) // held: it stays for now
	d.Close()
	if backing, ok := Backing(d.Number); ok && backing == f.Name() {
		t.Error("it is there after all")
	}
	must(t, Detach(d.Number))
	must(t, Detach(1<<19))
}

func TestWhatIsNoLoopDevice(t *testing.T) {
	f, err := os.Open(os.DevNull)
	must(t, err)
	defer f.Close()
	if _, err := Held(int(f.Fd())); !fault.Is(err, fault.Invalid) {
		t.Errorf("%s is a loop device (%v)", f.Name(), err)
	}
	if _, ok := Backing(1 << 19); ok {
		t.Error("a device that is not there is over a file")
	}
}
