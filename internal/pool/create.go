package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// CreateOptions say what pool is made. Path and Cluster are needed.
type CreateOptions struct {
	Path           string          // the pool's directory: empty, or not there yet
	Cluster        block.ClusterID // that the pool will belong to
	Kind           Kind            // "": Device with a Device, Directory on XFS and btrfs, else Image
	Device         string          // the block device, for kind Device
	SizeBytes      int64           // of the image; 0 is half of the free space around it
	ReservePercent int             // of the capacity; 0 is ReserveDefault
	Class          Class           // "" is what is measured
	Force          bool            // overwrite what a device carries; allow what is no good for production
	MeasureFor     time.Duration   // for how long to measure; 0 is MeasureDefault
	Clock          host.Clock      // nil is the machine's
}

// creation is a create on its way.
type creation struct {
	CreateOptions
	pool *Pool
	id   Identity
}

// Create makes a pool and returns it open; Close unmounts it again. Nothing is left
// behind when it fails; what an interrupted one left is removed first.
//
// Errors: Exists when there is a pool already; Precondition when the directory isn't
// empty, or the device carries something; Busy when the device is in use; NoSpace when
// the image would not fit; Unsupported, with what to install, when a program or a
// driver is missing; Denied when this needs root.
func Create(ctx context.Context, o CreateOptions) (*Pool, error) {
	const op = "pool.Create"
	c := &creation{CreateOptions: o}
	found := exists(o.Path)
	if err := c.create(ctx); err != nil {
		if !found {
			_ = os.Remove(o.Path) // it is ours; if it isn't empty it stays
		}
		return nil, fault.Wrap(op, err)
	}
	return c.pool, nil
}

func (c *creation) create(ctx context.Context) error {
	if err := c.plan(); err != nil {
		return err
	}
	if err := c.lock(ctx); err != nil {
		return err
	}
	if err := c.check(ctx); err != nil {
		c.pool.leave()
		return err
	}
	if err := c.make(ctx); err != nil {
		return c.undo(err)
	}
	return nil
}

// plan decides what is made, without touching anything but the directory itself.
func (c *creation) plan() error {
	if err := os.MkdirAll(c.Path, 0o700); err != nil {
		return err
	}
	path, err := resolve(c.Path)
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	if c.Device != "" {
		if c.Device, err = filepath.Abs(c.Device); err != nil {
			return err
		}
	}
	c.pool = &Pool{path: path}
	pool, err := block.NewPoolID(rand.Reader)
	if err != nil {
		return err
	}
	c.id = Identity{
		Cluster: c.Cluster, Pool: pool, Kind: c.Kind, Device: c.Device, ReservePercent: c.ReservePercent,
		Created: time.Now().UTC().Truncate(time.Second),
	}
	if c.id.ReservePercent == 0 {
		c.id.ReservePercent = ReserveDefault
	}
	if c.id.setClass(c.Class); c.id.Kind == "" {
		if c.id.Kind, err = defaultKind(path, c.Device); err != nil {
			return err
		}
	}
	if err := c.id.validate(); err != nil {
		return fault.E("create", fault.Invalid, block.VolumeID{}, err)
	}
	if c.SizeBytes != 0 && c.id.Kind != Image {
		return fault.Errorf("create", fault.Invalid, "a pool of kind %s has no size of its own: leave the size out", c.id.Kind)
	}
	if c.id.Kind != Directory && os.Geteuid() != 0 {
		return fault.WithCure(fault.Errorf("create", fault.Denied, "a pool of kind %s has to be mounted, which needs root", c.id.Kind),
			"run as root, or use the directory as it is with --directory")
	}
	return nil
}

func defaultKind(path, device string) (Kind, error) {
	if device != "" {
		return Device, nil
	}
	name, err := filesystemOf(path)
	if name == "xfs" || name == "btrfs" {
		return Directory, nil
	}
	return Image, err
}

// lock takes the directory, if it is empty, and clears away what an interrupted create
// or wipe left there.
func (c *creation) lock(ctx context.Context) error {
	path := c.pool.path
	if err := checkVacant(path); err != nil { // before a lock file is put there
		return err
	}
	if err := c.pool.lock(path); err != nil {
		return err
	}
	err := checkVacant(path)
	if err == nil {
		err = clearUnfinished(ctx, path)
	}
	if err != nil {
		c.pool.leave()
	}
	return err
}

// checkVacant refuses a directory that holds anything but the remains of an interrupted
// create or wipe.
func checkVacant(path string) error {
	names, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(path, unfinishedName)); err == nil {
		return nil
	}
	var others []string
	for _, n := range names {
		switch n.Name() {
		case lockName, unfinishedName + newSuffix, "lost+found":
		case identityName:
			id, err := loadOuter(path, OpenOptions{AnyCluster: true})
			if err != nil {
				return err
			}
			return fault.WithCure(fault.Errorf("create", fault.Exists, "%s is a pool already: %s of cluster %s", path, id.Pool, id.Cluster),
				"use it as it is, or wipe it first: "+wipeCommand(path, id.Pool))
		default:
			others = append(others, n.Name())
		}
	}
	if len(others) == 0 {
		return nil
	}
	return fault.WithCure(fault.Errorf("create", fault.Precondition, "%s is not empty: it holds %s", path, summary(others)),
		"name an empty directory, or one that does not exist yet")
}

// summary lists at most three names.
func summary(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// check refuses what can be known to fail, or must not be done, before anything is.
func (c *creation) check(ctx context.Context) error {
	path := c.pool.path
	if c.id.Kind == Device {
		return checkDevice(ctx, c.Device, c.Force)
	}
	name, err := filesystemOf(path)
	if err != nil {
		return err
	}
	if volatile(name) && !c.Force {
		return fault.WithCure(fault.Errorf("create", fault.Precondition, "%s is on %s, which loses everything when the machine stops", path, name),
			"name a directory on a disk; for a try-out only, use --force")
	}
	if c.id.Kind == Directory {
		return usable(path)
	}
	return c.checkSize()
}

// checkSize settles the image's size: whole 4 KiB blocks, and not more than there is.
func (c *creation) checkSize() error {
	around, err := roomOf(c.pool.path, c.pool.path)
	if err != nil {
		return err
	}
	if c.SizeBytes == 0 {
		c.SizeBytes = around.free / 2
	}
	c.SizeBytes -= c.SizeBytes % block.Size
	if c.SizeBytes < xfsBytesMin {
		return fault.WithCure(fault.Errorf("create", fault.Invalid, "%d bytes are too few for a pool", c.SizeBytes),
			fmt.Sprintf("give it at least %d MiB", xfsBytesMin>>20))
	}
	if c.SizeBytes > around.free && !c.Force {
		return fault.WithCure(fault.Errorf("create", fault.NoSpace,
			"an image of %d bytes would not fit: %s has %d bytes free", c.SizeBytes, c.pool.path, around.free),
			"give it a smaller --size; to let it promise more than there is, use --force")
	}
	return nil
}

// make makes the pool. Until it is through, unfinished.json says so.
func (c *creation) make(ctx context.Context) error {
	path := c.pool.path
	mark, err := c.id.encode()
	if err == nil {
		err = replaceFile(path, unfinishedName, mark)
	}
	if err != nil {
		return err
	}
	if err := c.makeFilesystem(ctx); err != nil {
		return err
	}
	p := c.pool
	p.mount = mountOf(path, c.id.Kind)
	if p.mount != path {
		if p.unmounts, err = mountPool(ctx, path, c.id); err != nil {
			return err
		}
	}
	if err := c.furnish(); err != nil {
		return err
	}
	if err := p.enter(c.id, c.Clock); err != nil {
		return err
	}
	return finish(path)
}

func (c *creation) makeFilesystem(ctx context.Context) error {
	switch c.id.Kind {
	case Device:
		if err := wipeDevice(ctx, c.Device); err != nil {
			return err
		}
		return makeXFS(ctx, c.Device, c.id)
	case Image:
		image := filepath.Join(c.pool.path, imageName)
		if err := makeImage(image, c.SizeBytes); err != nil {
			return err
		}
		// On the device, not on the file: only the device has 4096-byte sectors.
		loop, err := attachLoop(image)
		if err != nil {
			return err
		}
		defer loop.Close()
		return makeXFS(ctx, loop.Name(), c.id)
	}
	return nil
}

// makeImage makes a sparse file.
func makeImage(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := withoutCopyOnWrite(name); err != nil { // while it is empty
		return err
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	return f.Sync()
}

// furnish puts into the new filesystem what a pool has, the identity last.
func (c *creation) furnish() error {
	p := c.pool
	if err := os.Chmod(p.mount, 0o700); err != nil && c.id.Kind != Directory {
		return err
	}
	if err := os.Mkdir(p.Volumes(), 0o700); err != nil {
		return err
	}
	if err := withoutCopyOnWrite(p.Volumes()); err != nil {
		return err
	}
	var err error
	if c.id.Measured, err = measureDirectory(p.Volumes(), c.MeasureFor); err != nil {
		return err
	}
	c.id.setClass(c.Class)
	return saveBoth(p.path, p.mount, c.id)
}

// undo removes what a failed create has made, and returns why it failed.
func (c *creation) undo(why error) error {
	c.pool.unlockInside()
	// Not the caller's context: it may be what ended the create.
	if err := clearUnfinished(context.Background(), c.pool.path); err != nil {
		return errors.Join(why, err, c.pool.Close())
	}
	c.pool.leave()
	return why
}

// leave gives up a directory that is no pool, and takes the lock file along.
func (p *Pool) leave() {
	if len(p.locks) > 0 {
		_ = os.Remove(filepath.Join(p.path, lockName)) // an empty file in an empty directory at worst
	}
	p.unmounts = false
	_ = p.Close() // only unlocks
}
