package attach

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Link makes the stable name of a device point to it, in one step, and returns it.
func Link(dir, name, device string) (string, error) {
	link := filepath.Join(dir, name)
	fail := func(err error) (string, error) {
		return "", fault.Errorf("attach.Link", fault.KindOf(err), "%w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fail(err)
	}
	next := filepath.Join(dir, fmt.Sprintf(".%s.%d", name, os.Getpid()))
	if err := os.Remove(next); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	if err := os.Symlink(device, next); err != nil {
		return fail(err)
	}
	if err := os.Rename(next, link); err != nil {
		_ = os.Remove(next) // the error that matters is the other
		return fail(err)
	}
	return link, nil
}

// Unlink removes the stable name of a device, unless it points to another by now.
func Unlink(dir, name, device string) error {
	link := filepath.Join(dir, name)
	if target, err := os.Readlink(link); err != nil || target != device {
		return nil
	}
	if err := os.Remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fault.Errorf("attach.Unlink", fault.KindOf(err), "%w", err)
	}
	return nil
}
