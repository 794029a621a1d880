package cli

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
	"github.com/holdfast-io/holdfast/internal/pool"
	"github.com/holdfast-io/holdfast/internal/store"
)

// place is where a replica is, or is to be: ground under its feet, and its name there.
type place struct {
	root string // the directory that holds it
	name string // its name in root
	disk *host.Dir
	pool *pool.Pool // that root belongs to, open; nil for none
}

// access says what a command is going to do to a replica.
type access int

const (
	looks access = iota // changes nothing; a pool may be in use by somebody else
	works               // opens the replica; the pool must be free
)

// openPlace finds what a command's REPLICA means and opens the disk under it, and the pool.
func openPlace(ctx context.Context, replica string, a access) (*place, error) {
	path, err := filepath.Abs(replica)
	if err != nil || replica == "" || filepath.Dir(path) == path {
		return nil, fault.Errorf("place", fault.Invalid, "%q can't be a replica's directory", replica)
	}
	p := &place{root: filepath.Dir(path), name: filepath.Base(path)}
	poolPath, err := p.poolPath()
	if err != nil {
		return nil, err
	}
	if poolPath != "" {
		if err := p.openPool(ctx, poolPath, a); err != nil {
			return nil, err
		}
	}
	if p.disk, err = host.Open(p.root, host.Options{}); err != nil {
		return nil, first(err, p.close())
	}
	return p, nil
}

// poolPath returns the pool that the place is in, "" for none. In REPLICA, the name after
// a pool's directory is a replica's: p.root is that directory then.
func (p *place) poolPath() (string, error) {
	if exists(filepath.Join(p.dir(), "replica.json")) || filepath.Base(p.root) == "volumes" {
		mount := filepath.Dir(p.root)
		for _, path := range []string{filepath.Dir(mount), mount} {
			if r, err := pool.Inspect(path); err == nil && same(filepath.Join(r.Mount, "volumes"), p.root) {
				return path, nil
			}
		}
		return "", nil
	}
	_, err := pool.Inspect(p.root)
	switch {
	case err == nil:
		return p.root, nil
	case fault.Is(err, fault.NotFound):
		return "", nil
	}
	return "", err
}

// openPool opens the pool at path, or, if the command only looks and somebody else has it
// open, does without.
func (p *place) openPool(ctx context.Context, path string, a access) (err error) {
	p.pool, err = pool.Open(ctx, path, pool.OpenOptions{AnyCluster: true})
	if err == nil {
		p.root = p.pool.Volumes()
		return nil
	}
	if fault.Is(err, fault.Busy) && a == looks {
		if r, inspected := pool.Inspect(path); inspected == nil && r.Mount != "" {
			p.root = filepath.Join(r.Mount, "volumes")
			return nil
		}
	}
	return err
}

// close gives back what openPlace opened.
func (p *place) close() error {
	if p.disk != nil {
		p.disk.Close()
	}
	if p.pool != nil {
		return p.pool.Close()
	}
	return nil
}

// dir returns the replica's directory.
func (p *place) dir() string { return filepath.Join(p.root, p.name) }

// options are what the store is told about this machine and the pool.
func (p *place) options() store.Options {
	o := store.Options{Boot: host.Boot()}
	if p.pool != nil {
		o.Space = p.pool.Space()
		if p.pool.Crashed() {
			o.Boot = 0 // what was written last may be missing, though the machine is the same
		}
	}
	return o
}

// contents are what is in a directory.
type contents int

const (
	nothing   contents = iota // there is no such directory
	aReplica                  // it is a replica
	remains                   // it may be what an interrupted command left
	something                 // it is neither, and not to be touched
)

// look says what is at a name in the place's root.
func (p *place) look(name string) (contents, error) {
	entries, err := os.ReadDir(filepath.Join(p.root, name))
	if errors.Is(err, os.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return something, fault.Wrap("look", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	switch whole, part := store.Recognize(names); {
	case whole:
		return aReplica, nil
	case part:
		return remains, nil
	}
	return something, nil
}

// vacant makes sure that a replica can be made at the place, and that the unfinished one
// which the store removes first, if there is any, is one.
func (p *place) vacant() error {
	is, err := p.look(p.name)
	if err == nil && is != nothing {
		err = fault.WithCure(fault.Errorf("place", fault.Exists, "%s exists", p.dir()), "choose another name")
	}
	if err != nil {
		return err
	}
	return p.guardUnfinished()
}

// guardUnfinished keeps a directory that is not ours from being taken for an unfinished
// replica.
func (p *place) guardUnfinished() error {
	is, err := p.look(p.name + store.UnfinishedSuffix)
	if err == nil && is == something {
		err = fault.WithCure(fault.Errorf("place", fault.Exists, "%s is in the way, and is no unfinished replica",
			p.dir()+store.UnfinishedSuffix), "move it away")
	}
	return err
}

// sibling returns the place of another replica beside p, as a command's REPLICA names it.
func (p *place) sibling(replica string) (*place, error) {
	path, err := filepath.Abs(replica)
	if err != nil {
		return nil, fault.Wrap("place", err)
	}
	root := filepath.Dir(path)
	if !same(root, p.root) && (p.pool == nil || !same(root, p.pool.Path())) {
		return nil, fault.WithCure(fault.Errorf("place", fault.Invalid, "%s is not in the directory or pool of %s", path, p.dir()),
			"name one beside it, such as "+quoted(filepath.Join(p.root, filepath.Base(path))))
	}
	if filepath.Base(path) == p.name {
		return nil, fault.Errorf("place", fault.Invalid, "%s is the replica itself", p.dir())
	}
	return &place{root: p.root, name: filepath.Base(path), disk: p.disk, pool: p.pool}, nil
}
