package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-io/holdfast/internal/attach/mount"
)

// targets are the paths where a volume was published to, one file a volume. The table of
// mounts alone can't tell: a path below a volume that a pod uses is mounted once more, and
// is no second user.
//
// A file that can't be read is as good as none: the orchestrator keeps the same promise
// across nodes, and a broken file must not keep a container from starting.
type targets struct {
	file  string
	paths []string
}

// targets returns where a volume is published on this node: what was, and is not mounted
// any more, is left out.
func (n *node) targets(volume string) (*targets, error) {
	sum := sha256.Sum256([]byte(volume)) // an id may be anything
	t := &targets{file: filepath.Join(n.d.o.Dir, hex.EncodeToString(sum[:16])+".json")}
	raw, err := os.ReadFile(t.file)
	if os.IsNotExist(err) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(raw, &t.paths) != nil {
		t.paths = nil
		return t, nil
	}
	all, err := mount.List()
	if err != nil {
		return nil, err
	}
	t.paths = slices.DeleteFunc(t.paths, func(path string) bool {
		return !slices.ContainsFunc(all, func(m mount.Mounted) bool { return m.Dir == path })
	})
	return t, nil
}

func (t *targets) has(path string) bool { return slices.Contains(t.paths, path) }

// other returns a path that is not the one, or "".
func (t *targets) other(than string) string {
	for _, path := range t.paths {
		if path != than {
			return path
		}
	}
	return ""
}

func (t *targets) add(path string) error {
	if t.has(path) {
		return nil
	}
	t.paths = append(t.paths, path)
	return t.save()
}

func (t *targets) remove(path string) error {
	t.paths = slices.DeleteFunc(t.paths, func(p string) bool { return p == path })
	if len(t.paths) > 0 {
		return t.save()
	}
	if err := os.Remove(t.file); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// save replaces the file. It need not outlive a loss of power: mounts don't either.
func (t *targets) save() error {
	raw, err := json.Marshal(t.paths)
	if err != nil {
		return err
	}
	if err := os.WriteFile(t.file+".new", raw, 0o600); err != nil {
		return err
	}
	return os.Rename(t.file+".new", t.file)
}
