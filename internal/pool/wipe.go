package pool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// WipeOptions say that somebody knows what is wiped.
type WipeOptions struct {
	Pool    block.PoolID // the pool's id, which must be right
	Damaged bool         // wipe also what has no readable identity, was interrupted, or lost its device
}

// Wipe destroys a pool and everything in it, whichever cluster it belongs to: of a
// directory what the pool made there, of an image the file, of a device its signatures.
// The directory at path stays, empty. A wipe that was interrupted is never opened as a
// pool, and can be done again.
//
// Errors: Precondition when the pool is not the one that o names; Busy when a process has
// it open; NotFound when there is none, or its device is gone.
func Wipe(ctx context.Context, path string, o WipeOptions) error {
	const op = "pool.Wipe"
	path, err := resolve(path)
	if err != nil {
		return fault.Wrap(op, err)
	}
	if _, err := wipeable(ctx, path, o); err != nil { // before a lock file is put there
		return fault.Wrap(op, err)
	}
	p := &Pool{path: path}
	if err := p.lock(path); err != nil {
		return fault.Wrap(op, err)
	}
	named, err := wipeable(ctx, path, o)
	if err == nil && named {
		err = setAside(path)
	}
	if err == nil {
		err = clearUnfinished(ctx, path)
	}
	if err != nil {
		return fault.Wrap(op, p.abandon(err))
	}
	p.leave()
	return nil
}

// wipeable checks that what is at path is a pool, and the one that o means. named is
// true when it has an identity file to be set aside.
func wipeable(ctx context.Context, path string, o WipeOptions) (named bool, err error) {
	id, err := readIdentity(filepath.Join(path, unfinishedName))
	if err == nil || fault.Is(err, fault.Corrupt) {
		if o.Damaged || err == nil && id.Pool == o.Pool {
			return false, nil
		}
		return false, fault.WithCure(fault.Errorf("wipe", fault.Precondition, "%s is only half of a pool", path),
			"if it is to be removed: "+damagedCommand(path))
	}
	id, err = loadIdentity(path, damagedCommand(path))
	switch {
	case err == nil && id.Pool != o.Pool:
		return false, fault.WithCure(fault.Errorf("wipe", fault.Precondition, "%s is pool %s of cluster %s", path, id.Pool, id.Cluster),
			"if that is to be destroyed, with everything in it: "+wipeCommand(path, id.Pool))
	case err == nil && id.Kind == Device && !o.Damaged && !mounted(path):
		_, err = findDevice(ctx, id.Pool, id.Device)
		return true, err
	case fault.Is(err, fault.Corrupt) && o.Damaged:
		return true, nil
	}
	return err == nil, err
}

// setAside makes a pool an unfinished one, durably.
func setAside(path string) error {
	err := os.Rename(filepath.Join(path, identityName), filepath.Join(path, unfinishedName))
	if errors.Is(err, os.ErrNotExist) { // only the copy is left
		err = os.Rename(filepath.Join(path, copyName), filepath.Join(path, unfinishedName))
	}
	if err == nil {
		err = syncDir(path)
	}
	return err
}

// clearUnfinished removes, in any state, what Create makes at path, unfinished.json
// last. It does nothing when that isn't there. A device is cleared only if it carries
// this pool's filesystem.
func clearUnfinished(ctx context.Context, path string) error {
	mark := filepath.Join(path, unfinishedName)
	if _, err := os.Lstat(mark); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err := unmountPool(path); err != nil {
		return err
	}
	if err := clearDevice(ctx, path); err != nil {
		return err
	}
	for _, name := range []string{volumesName, imageName, identityName, copyName} {
		for _, name := range []string{name, name + newSuffix} {
			if err := os.RemoveAll(filepath.Join(path, name)); err != nil {
				return err
			}
		}
	}
	// Not RemoveAll: nothing that may be mounted there is ours to delete.
	if err := os.Remove(filepath.Join(path, mountName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(mark + newSuffix); err != nil {
		return err
	}
	return finish(path)
}

// finish removes the mark of an unfinished pool, after everything else is durable.
func finish(path string) error {
	err := syncDir(path)
	if err == nil {
		err = os.Remove(filepath.Join(path, unfinishedName))
	}
	if err == nil {
		err = syncDir(path)
	}
	return err
}

// clearDevice removes the signatures from the device of the unfinished pool at path.
func clearDevice(ctx context.Context, path string) error {
	id, err := readIdentity(filepath.Join(path, unfinishedName))
	if err != nil {
		id, err = readIdentity(filepath.Join(path, copyName))
	}
	if err != nil || id.Kind != Device {
		return nil // what can't be known can't be cleared; a new pool there will need --force
	}
	device, err := findDevice(ctx, id.Pool, id.Device)
	if fault.Is(err, fault.NotFound) {
		return nil // not made yet, cleared already, or given up as lost
	}
	if err != nil {
		return err
	}
	if err := wipeDevice(ctx, device); err != nil {
		return fmt.Errorf("clear %s: %w", device, err)
	}
	return nil
}
