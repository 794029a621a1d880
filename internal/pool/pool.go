// Package pool turns directories and devices into pools: places on one machine where
// replicas live, with an identity, a capacity, a class and a health.
//
// A pool is named by a directory, its path. There are three kinds, alike to whoever
// uses them:
//
//   - [Directory]: the path itself, on a filesystem that is good as it is;
//   - [Image]: a sparse file in the path that holds an XFS filesystem, seen through a
//     loop device with direct I/O and 4096-byte blocks;
//   - [Device]: a whole block device with an XFS filesystem, whose UUID is the pool's id,
//     so that it is found again under whatever name it has after a reboot.
//
// Images and devices are mounted at <path>/mount. What a pool holds:
//
//	<mount>/pool.json       the identity, see Identity
//	<mount>/pool.copy.json  the same again, for repair by hand
//	<mount>/lock            held, with the owner's process id inside, while it is open
//	<mount>/volumes/        the store's: the root of its host.Disk
//	<path>/pool.json        of images and devices: the identity again, to find them by
//	<path>/pool.img         of images: the filesystem
//	<path>/unfinished.json  there while a create or a wipe is under way
//	<path>/crashed          of images and devices: the filesystem was unmounted after it had
//	                        shut down, see Pool.Crashed
//
// The package promises that a pool is opened by one process at a time and only for the
// cluster it belongs to; that nothing which carries data is overwritten unless forced;
// that a create or wipe cut short at any point is never mistaken for a pool, and can be
// done again; and that a pool refuses new allocation while its filesystem still has
// room (see [Space]). It starts no goroutine.
package pool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Names inside a pool; the package comment says which is what.
const (
	volumesName    = "volumes"
	mountName      = "mount"
	imageName      = "pool.img"
	lockName       = "lock"
	identityName   = "pool.json"
	copyName       = "pool.copy.json"
	unfinishedName = "unfinished.json"
	crashedName    = "crashed"
	measureName    = "measure"
)

// Pool is an open pool: mounted, locked, and checked to be what it says. Its methods may
// be called from several goroutines.
type Pool struct {
	path     string
	mount    string
	space    *Space
	locks    []*lock
	unmounts bool // by Close: the mount is ours and was not given away
	reopened bool // see Reopened

	mu       sync.Mutex // guards identity
	identity Identity
}

// OpenOptions say for whom a pool is opened.
type OpenOptions struct {
	Cluster    block.ClusterID // the cluster that the pool must belong to
	AnyCluster bool            // instead: for tools, which serve no cluster
	Clock      host.Clock      // for Space; nil is the machine's
}

// Open finds the pool at path, mounts it if it isn't, and locks it until Close. It does
// after a reboot what is left to do, and nothing where all is in place.
//
// Errors: NotFound when there is no pool at path, or its device is gone; Precondition
// when it belongs to another cluster, or was only half made or wiped; Busy when another
// process has it; Corrupt when its identity or filesystem is damaged; Unsupported when a
// newer release made it.
func Open(ctx context.Context, path string, o OpenOptions) (*Pool, error) {
	const op = "pool.Open"
	if o.Cluster.IsZero() != o.AnyCluster {
		return nil, fault.Errorf(op, fault.Invalid, "want either a cluster or AnyCluster")
	}
	path, err := resolve(path)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	p := &Pool{path: path, identity: Identity{Kind: Directory}} // until it is known
	if err := p.open(ctx, o); err != nil {
		return nil, fault.Wrap(op, p.abandon(p.advise(err)))
	}
	return p, nil
}

// abandon closes a pool that could not be opened, and returns why it could not.
func (p *Pool) abandon(why error) error {
	if err := p.Close(); err != nil {
		return errors.Join(why, err)
	}
	return why
}

func (p *Pool) open(ctx context.Context, o OpenOptions) error {
	// Look before locking: a directory that is no pool gets no lock file.
	outer, err := loadOuter(p.path, o)
	if err != nil {
		return err
	}
	p.identity = outer
	if err := p.lock(p.path); err != nil {
		return err
	}
	outer, err = loadOuter(p.path, o) // again: a wipe may have come between
	if err != nil {
		return err
	}
	p.identity, p.mount = outer, mountOf(p.path, outer.Kind)
	if p.mount != p.path {
		if shut(p.mount) { // it is of no use to anybody, and is as after a crash when it is mounted anew
			if err := p.unmount(); err != nil {
				return err
			}
		}
		if p.unmounts, err = mountPool(ctx, p.path, outer); err != nil {
			return err
		}
	}
	return p.enter(outer, o.Clock)
}

// advise adds a cure to what a broken filesystem answers.
func (p *Pool) advise(err error) error {
	_, cure := fault.Describe(err)
	if cure == "" && (fault.Is(err, fault.Media) || errors.Is(err, unix.EROFS)) {
		return fault.WithCure(err, repairCure(p.path, p.identity.Kind))
	}
	return err
}

// enter takes possession of the mounted filesystem.
func (p *Pool) enter(outer Identity, clock host.Clock) error {
	p.identity = outer
	if p.mount != p.path {
		if err := p.lock(p.mount); err != nil {
			return err
		}
		inner, err := loadIdentity(p.mount, wipeCommand(p.path, outer.Pool))
		if err != nil {
			return err
		}
		if inner.Pool != outer.Pool || inner.Cluster != outer.Cluster {
			return fault.WithCure(fault.Errorf("path", fault.Precondition,
				"%s should be pool %s of cluster %s, but pool %s of cluster %s is mounted at %s",
				p.path, outer.Pool, outer.Cluster, inner.Pool, inner.Cluster, p.mount),
				"run: umount "+quote(p.mount)+"; then try again")
		}
		p.identity = inner
	}
	if _, err := os.Stat(p.Volumes()); err != nil {
		return err
	}
	if clock == nil {
		clock = host.RealClock{}
	}
	p.space = newSpace(spaceOptions{
		Path: p.path, Clock: clock, ReservePercent: p.identity.ReservePercent,
		Stat: func() (room, error) { return roomOf(p.path, p.mount) },
	})
	return nil
}

func (p *Pool) lock(dir string) error {
	l, err := takeLock(dir)
	if err == nil {
		p.locks = append(p.locks, l)
	}
	return err
}

// Close gives the pool back, after all other methods have returned: it unlocks it and, if Open was what mounted it, unmounts it
// and detaches its loop device. Nothing in the pool may be open any more: if something is,
// Close fails with Busy after some seconds, and the pool stays mounted, unlocked.
func (p *Pool) Close() error {
	var err error
	p.unlockInside()
	if p.unmounts {
		p.unmounts = false
		err = p.unmount()
	}
	if p.reopened && err == nil && !shut(p.mount) {
		err = p.forgetCrash()
	}
	for _, l := range p.locks {
		l.release()
	}
	p.locks = nil
	return fault.Wrap("pool.Close", err)
}

// unlockInside gives up the lock that keeps a mounted filesystem busy.
func (p *Pool) unlockInside() {
	if len(p.locks) > 1 {
		p.locks[1].release()
		p.locks = p.locks[:1]
	}
}

// unmount unmounts the pool's filesystem. That it had shut down is noted before: then what
// was not flushed is not there when it is mounted again.
func (p *Pool) unmount() error {
	if shut(mountOf(p.path, Image)) {
		f, err := os.OpenFile(filepath.Join(p.path, crashedName), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close(), syncDir(p.path)); err != nil {
			return err
		}
	}
	return unmountPool(p.path)
}

// Crashed reports whether the pool's filesystem was mounted anew after it had shut down, and
// everybody who had written to it has yet to take that for what it is: a crash, in which what
// was not flushed was lost, although the machine has not started again. It is so until a
// Close in order.
func (p *Pool) Crashed() bool { return exists(filepath.Join(p.path, crashedName)) }

// Reopened says that whoever has data in the pool knows of the crash.
func (p *Pool) Reopened() { p.reopened = true }

func (p *Pool) forgetCrash() error {
	err := os.Remove(filepath.Join(p.path, crashedName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// KeepMounted makes Close leave the filesystem mounted. Call it from one goroutine, the
// one that closes.
func (p *Pool) KeepMounted() { p.unmounts = false }

// Remount unmounts the pool's filesystem and mounts it anew, which is what one needs that
// has shut down. Nothing in it may be open, nothing else may be asked of the pool meanwhile, and
// Space returns another one afterwards. When it fails it can be tried again. A directory is
// left as it is.
func (p *Pool) Remount(ctx context.Context) error {
	const op = "pool.Remount"
	if p.Identity().Kind == Directory {
		return nil
	}
	p.unlockInside()
	if err := p.unmount(); err != nil {
		return fault.Wrap(op, err)
	}
	outer, err := loadOuter(p.path, OpenOptions{Cluster: p.Identity().Cluster})
	if err != nil {
		return fault.Wrap(op, err)
	}
	if _, err := mountPool(ctx, p.path, outer); err != nil {
		return fault.Wrap(op, p.advise(err))
	}
	return fault.Wrap(op, p.enter(outer, nil))
}

// Path returns the pool's directory, absolute and without symbolic links.
func (p *Pool) Path() string { return p.path }

// Mount returns the directory of the pool's filesystem that is the pool's.
func (p *Pool) Mount() string { return p.mount }

// Volumes returns the directory that belongs to the replica store.
func (p *Pool) Volumes() string { return filepath.Join(p.mount, volumesName) }

// Space returns the accountant that the pool's stores ask before they allocate.
func (p *Pool) Space() *Space { return p.space }

// Identity returns what the pool is.
func (p *Pool) Identity() Identity {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.identity
}

// SetReserve changes the share of the capacity that is kept free, for good, at once.
func (p *Pool) SetReserve(percent int) error {
	return p.change("pool.SetReserve", func(id *Identity) { id.ReservePercent = percent })
}

// SetClass changes the pool's class, for good; "" means what was measured at creation.
func (p *Pool) SetClass(class Class) error {
	return p.change("pool.SetClass", func(id *Identity) { id.setClass(class) })
}

// change makes a new identity durable, then the pool's.
func (p *Pool) change(op string, edit func(*Identity)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := p.identity
	edit(&id)
	if err := id.validate(); err != nil {
		return fault.E(op, fault.Invalid, block.VolumeID{}, err)
	}
	if err := saveBoth(p.path, p.mount, id); err != nil {
		return fault.Wrap(op, err)
	}
	p.identity = id
	p.space.setReserve(id.ReservePercent)
	return nil
}

// Unmount takes the mounted pool at path out of service: it unmounts its filesystem and
// detaches its loop device, whoever mounted it. A pool of kind Directory, and one that
// isn't mounted, is left as it is. Busy when a process has it open.
func Unmount(path string) error {
	const op = "pool.Unmount"
	path, err := resolve(path)
	if err != nil {
		return fault.Wrap(op, err)
	}
	id, err := loadOuter(path, OpenOptions{AnyCluster: true})
	if err != nil || id.Kind == Directory {
		return fault.Wrap(op, err)
	}
	p := &Pool{path: path}
	if err := p.lock(path); err != nil {
		return fault.Wrap(op, err)
	}
	p.unmounts = true
	return fault.Wrap(op, p.Close())
}

// mountOf returns where the filesystem of a pool is.
func mountOf(path string, kind Kind) string {
	if kind == Directory {
		return path
	}
	return filepath.Join(path, mountName)
}

// resolve makes path absolute, so that messages and mounts mean the same to everyone.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, os.ErrNotExist) {
		return "", noPool(abs)
	}
	return real, err
}

func noPool(path string) error {
	return fault.WithCure(fault.Errorf("path", fault.NotFound, "there is no pool at %s", path),
		"make one: holdfast pool create "+quote(path))
}

// quote makes one word of s for a shell, so that commands in messages can be pasted.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+:@%=,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
