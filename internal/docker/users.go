package docker

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// users remembers who uses which volume, in a file, so that a restart of this process
// detaches nothing that a container still uses. A boot of the machine ends all uses.
type users struct {
	mu   sync.Mutex
	file string
	boot string
	of   map[string][]string      // ids of the engine, by volume
	busy map[string]chan struct{} // volumes that are being worked on
}

// saved is the file.
type saved struct {
	Boot  string              `json:"boot"`
	Users map[string][]string `json:"users"`
}

// open reads the file. One that can't be read, or is of an earlier boot, is as good as none.
func (u *users) open(file string) error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	u.file, u.boot, u.of, u.busy = file, strings.TrimSpace(string(boot)), map[string][]string{}, map[string]chan struct{}{}
	raw, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	u.read(raw)
	return nil
}

func (u *users) read(raw []byte) {
	var s saved
	if json.Unmarshal(raw, &s) == nil && s.Boot == u.boot && s.Users != nil {
		u.of = s.Users
	}
}

// lock waits until nobody else works on the volume.
func (u *users) lock(ctx context.Context, volume string) (unlock func(), err error) {
	for {
		u.mu.Lock()
		other := u.busy[volume]
		if other == nil {
			mine := make(chan struct{})
			u.busy[volume] = mine
			u.mu.Unlock()
			return func() {
				u.mu.Lock()
				delete(u.busy, volume)
				u.mu.Unlock()
				close(mine)
			}, nil
		}
		u.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fault.Errorf("docker", fault.Busy, "volume %s is being worked on", volume)
		}
	}
}

// add counts one more user; the same one twice is one.
func (u *users) add(volume, user string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if slices.Contains(u.of[volume], user) {
		return nil
	}
	u.of[volume] = append(u.of[volume], user)
	return u.save()
}

// remove counts one user less, and returns how many are left.
func (u *users) remove(volume, user string) (left int, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.of[volume] = slices.DeleteFunc(u.of[volume], func(other string) bool { return other == user })
	left = len(u.of[volume])
	if left == 0 {
		delete(u.of, volume)
	}
	return left, u.save()
}

func (u *users) save() error {
	raw, err := json.Marshal(saved{Boot: u.boot, Users: u.of})
	if err != nil {
		return err
	}
	if err := os.WriteFile(u.file+".new", raw, 0o600); err != nil {
		return fault.Wrap("docker.save", err)
	}
	return fault.Wrap("docker.save", os.Rename(u.file+".new", u.file))
}
