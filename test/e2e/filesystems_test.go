package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	v1 "github.com/holdfast-io/holdfast/api/holdfast/v1"
)

func itoa[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }

// scribe is an application that has files come, grow, change names and go, and knows
// which it was told are safe.
type scribe struct {
	dir    string
	synced atomic.Int64 // the last file that is safe, and so are those before it
	ends   atomic.Bool
	done   chan error
}

// kept is how many files a scribe keeps; older ones it deletes.
const kept = 64

func newScribe(t *testing.T, dir string, first int64) *scribe {
	s := &scribe{dir: dir, done: make(chan error, 1)}
	s.synced.Store(first)
	go func() {
		var err error
		for n := first + 1; !s.ends.Load() && err == nil; n++ {
			if err = s.write(n); err == nil {
				s.synced.Store(n)
			}
		}
		s.done <- err
	}()
	t.Cleanup(func() { s.ends.Store(true) })
	return s
}

func (s *scribe) path(n int64) string {
	return filepath.Join(s.dir, fmt.Sprintf("d%d", n%7), fmt.Sprintf("f%d", n))
}

// content is what file n has: some bytes, or some hundred thousand.
func content(n int64) (all []byte) {
	for i := range 1 + n*n%2000 {
		sum := sha256.Sum256(fmt.Append(nil, n, i))
		all = append(all, sum[:]...)
		all = append(all, make([]byte, 64)...)
	}
	return all
}

func (s *scribe) write(n int64) error {
	path := s.path(n)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(content(n))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return err
	}
	if n > kept {
		err = os.Remove(s.path(n - kept))
		if errors.Is(err, os.ErrNotExist) { // of the node before
			err = nil
		}
	}
	return err
}

// goesOn waits until more files are safe than now.
func (s *scribe) goesOn(c *cluster) {
	c.t.Helper()
	now := s.synced.Load()
	c.await("files are written", func(context.Context) bool {
		select {
		case err := <-s.done:
			c.t.Fatalf("the files in %s can't be written: %v", s.dir, err)
		default:
		}
		return s.synced.Load() > now+20
	})
}

// verify reads the files that are safe.
func (s *scribe) verify(t *testing.T, dir string) {
	t.Helper()
	last := s.synced.Load()
	at := scribe{dir: dir}
	for n := max(1, last-kept+2); n <= last; n++ {
		got, err := os.ReadFile(at.path(n))
		if err != nil || string(got) != string(content(n)) {
			t.Errorf("file %d of %d has %d bytes, %v, and not the %d that were written", n, last, len(got), err, len(content(n)))
		}
	}
}

// used returns the bytes that are used of a node's pool, as its filesystem says.
func (n *node) used() int64 {
	n.c.t.Helper()
	var s unix.Statfs_t
	must(n.c.t, unix.Statfs(n.path("pool/mount"), &s))
	return int64(s.Blocks-s.Bfree) * s.Bsize
}

// TestFilesystems has filesystems on volumes lose their nodes, and give back space.
func TestFilesystems(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)

	c.during(t, "DeletedFilesGiveTheirSpaceBackToThePools", func(t *testing.T) {
		const bytes = 128 << 20
		c.volume("thin", 512<<20, 3)
		dir := c.nodes[0].mount("thin")
		var before, full []int64
		for _, n := range c.nodes {
			before = append(before, n.used())
		}
		sh(t, `head -c "$2" /dev/urandom >"$1/file"; sync -f "$1/file"`, dir, itoa(bytes))
		for i, n := range c.nodes {
			full = append(full, n.used())
			if full[i]-before[i] < bytes {
				t.Errorf("%d bytes of a file take %d of the pool of %s", bytes, full[i]-before[i], n.name)
			}
		}
		t.Logf("fstrim says: %s", sh(t, `rm "$1/file"; sync -f "$1"; fstrim -v "$1"`, dir))
		for i, n := range c.nodes {
			c.await("the space is given back to the pool of "+n.name, func(context.Context) bool { return full[i]-n.used() > bytes*9/10 })
		}
		c.gone("thin")
	})

	for _, fs := range []struct{ kind, check string }{
		{"ext4", `e2fsck -fn "$1"`},
		{"xfs", `xfs_repair -n "$1"`},
	} {
		c.during(t, "AFilesystemIsSoundAfterItsNodeDied/"+fs.kind, func(t *testing.T) {
			volume := fs.kind
			c.nodes[0].mustCLI("volume", "create", volume, "--size", "512Mi", "--repl", "3", "--fs", fs.kind)
			at, last := 0, int64(0)
			dir := c.nodes[at].mount(volume)
			for range rounds(1, 6) {
				s := newScribe(t, dir, last)
				s.goesOn(c)
				dead := c.nodes[at]
				dead.crash()
				c.await("the writer of the dead node ends", func(context.Context) bool { return len(s.done) > 0 })
				last = s.synced.Load()
				// What the kernel of a dead machine would take with it; XFS refuses a second mount.
				must(t, syscall.Unmount(dir, 0))
				at = (at + 1) % len(c.nodes)
				n := c.nodes[at]
				dir = n.mount(volume)
				s.verify(t, dir)
				n.mustCLI("volume", "unmount", volume)
				a, err := n.api().Attachments.GetAttachment(t.Context(), &v1.GetAttachmentRequest{Volume: volume})
				must(t, err)
				sh(t, fs.check, a.Status.Device)
				dir = n.mountAgain(volume)
				s.verify(t, dir)
				dead.start()
				c.awaitNodes()
				n.awaitHealth(volume, v1.Health_HEALTH_HEALTHY)
			}
			c.detach(volume)
		})
	}
}

// mountAgain mounts a volume that is attached here.
func (n *node) mountAgain(volume string) (dir string) {
	n.c.t.Helper()
	dir = n.path("mnt-" + volume)
	n.mustCLI("volume", "mount", volume, dir)
	var s syscall.Statfs_t
	must(n.c.t, syscall.Statfs(dir, &s))
	return dir
}
