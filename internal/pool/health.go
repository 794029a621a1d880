package pool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// State is how a pool is, in a word.
type State string

// The states, best first.
const (
	Ready     State = "Ready"
	Full      State = "Full"      // the reserve is reached: no new allocation, all else goes on
	Unmounted State = "Unmounted" // nobody has opened it; all is there
	ReadOnly  State = "ReadOnly"  // the kernel made it so after an error
	Missing   State = "Missing"   // its device or image is gone
	Failed    State = "Failed"    // reading or writing fails
)

// Health is a state, why it is so, and what a person can do about it. Reason and Cure
// are empty when the state is Ready.
type Health struct {
	State  State  `json:"state"`
	Reason string `json:"reason,omitempty"`
	Cure   string `json:"cure,omitempty"`
}

// Health looks at the pool now: that its device is there, that it can be read from the
// medium and written durably, that it isn't full. It writes a few bytes, and waits for
// the disk as long as that takes.
func (p *Pool) Health() Health {
	id := p.Identity()
	if h := look(p.path, id); h.State != Ready {
		return h
	}
	// The innermost lock file is on the pool's filesystem.
	switch err := p.locks[len(p.locks)-1].stamp(); {
	case errors.Is(err, unix.EROFS):
		return readOnly(p.path, id)
	case err != nil && !fault.Is(err, fault.NoSpace):
		return failed(p.path, fmt.Errorf("writing fails: %w", err))
	}
	return fullness(p.path, id)
}

// IsShut reports whether the pool's filesystem has shut down after an error of what it is
// on, or could not be mounted after that: nothing can be done there before [Pool.Remount].
// Who mounts the filesystem of a directory has to see to that, so of those it is false.
func (p *Pool) IsShut() bool {
	return p.Identity().Kind != Directory && (shut(p.mount) || !mounted(p.path))
}

// shut reports whether the filesystem that is mounted there has shut down: then it tells
// nothing of a file, although it knows all of it.
func shut(mount string) bool {
	var st unix.Stat_t
	return errors.Is(unix.Stat(filepath.Join(mount, identityName), &st), unix.EIO)
}

// Report is what can be known of a pool without opening it.
type Report struct {
	Path       string
	Mount      string // "" when it isn't mounted
	Filesystem string // "" when it isn't mounted
	Identity   Identity
	OwnerPID   int   // of the process that has it open; 0 for none, -1 for one that isn't known
	Usage      Usage // zero when it isn't mounted
	Health     Health
	Note       string // what is worth knowing about its filesystem; "" for nothing
}

// Inspect reports on the pool at path, whoever has it open, and changes nothing. What is
// wrong with a pool is in Report.Health; an error means that there is no pool, or that it
// can't be told which: NotFound, Precondition, Corrupt, Unsupported, as of Open.
func Inspect(path string) (Report, error) {
	const op = "pool.Inspect"
	path, err := resolve(path)
	if err != nil {
		return Report{}, fault.Wrap(op, err)
	}
	id, err := loadOuter(path, OpenOptions{AnyCluster: true})
	if err != nil {
		return Report{}, fault.Wrap(op, err)
	}
	r := Report{Path: path, Identity: id, OwnerPID: owner(path)}
	if id.Kind != Directory && !mounted(path) {
		r.Health = absent(r)
		return r, nil
	}
	r.Mount = mountOf(path, id.Kind)
	if inner, err := readIdentity(filepath.Join(r.Mount, identityName)); err == nil && inner.Pool == id.Pool {
		r.Identity = inner
	}
	r.Health = look(path, r.Identity)
	if r.Filesystem, err = filesystemOf(r.Mount); err == nil && id.Kind == Directory {
		r.Note = noteOn(r.Filesystem)
	}
	if full, err := roomOf(path, r.Mount); err == nil {
		r.Usage = usageOf(full, r.Identity.ReservePercent)
	}
	if r.Health.State == Ready {
		r.Health = fullness(path, r.Identity)
	}
	return r, nil
}

// List reports on the pools at dir and directly below it. Directories that are no pools
// are left out; a pool that can't be told which is listed as Failed, with its path.
func List(dir string) ([]Report, error) {
	const op = "pool.List"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fault.Wrap(op, err)
	}
	paths := []string{dir}
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	var reports []Report
	for _, path := range paths {
		if !traceOfPool(path) {
			continue
		}
		r, err := Inspect(path)
		if err != nil {
			what, cure := fault.Describe(err)
			r = Report{Path: path, Health: Health{State: Failed, Reason: what, Cure: cure}}
		}
		// An image's or device's mount, seen from its path, is not another pool.
		if r.Identity.Kind == Directory || filepath.Base(path) != mountName {
			reports = append(reports, r)
		}
	}
	return reports, nil
}

// traceOfPool reports whether path has, or had, something to do with a pool.
func traceOfPool(path string) bool {
	for _, name := range []string{identityName, copyName, unfinishedName} {
		if _, err := os.Lstat(filepath.Join(path, name)); err == nil {
			return true
		}
	}
	return false
}

// absent says why nothing is mounted.
func absent(r Report) Health {
	if h := source(r.Path, r.Identity); h.State != Ready {
		return h
	}
	if r.OwnerPID != 0 {
		return Health{Unmounted, "the process that has it open mounted it where it can't be seen from here",
			fmt.Sprintf("look from there: nsenter --mount --target %d", r.OwnerPID)}
	}
	return Health{Unmounted, "no process has opened it since the machine started, or since it was unmounted",
		"open it, or run: holdfast pool remount " + quote(r.Path)}
}

// source looks whether what an unmounted pool's filesystem is on is there.
func source(path string, id Identity) Health {
	switch id.Kind {
	case Image:
		if image := filepath.Join(path, imageName); !exists(image) {
			return Health{Missing, image + " is gone", "put it back, or wipe the pool: " + damagedCommand(path)}
		}
	case Device:
		if uuid, ok := xfsUUID(id.Device); !ok || uuid != id.Pool {
			return Health{Missing, id.Device + " is gone, or has another name by now",
				"run: holdfast pool remount " + quote(path) + ", which looks for the device under all names"}
		}
	}
	return Health{State: Ready}
}

// look looks at a mounted pool without writing to it.
func look(path string, id Identity) Health {
	mount := mountOf(path, id.Kind)
	if h := underneath(path, mount, id); h.State != Ready {
		return h
	}
	st, err := statfs(mount)
	if err != nil {
		return failed(path, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 || emergency(mount) {
		return readOnly(path, id)
	}
	if err := readMedium(filepath.Join(mount, identityName)); err != nil {
		return failed(path, fmt.Errorf("reading fails: %w", err))
	}
	return Health{State: Ready}
}

// underneath looks whether what a mounted filesystem is on is still there.
func underneath(path, mount string, id Identity) Health {
	var st unix.Stat_t
	switch {
	case id.Kind == Image:
		return source(path, id)
	case id.Kind == Device && unix.Stat(mount, &st) == nil &&
		!exists(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))):
		return Health{Missing, "the device under " + mount + " is gone (it was " + id.Device + ")",
			"attach the device again; " + repairCure(path, id.Kind)}
	}
	return Health{State: Ready}
}

// readMedium reads a file from the disk, not from memory.
func readMedium(name string) error {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) {
		return nil // tmpfs has no medium
	}
	if err != nil {
		return err
	}
	defer f.Close()
	raw := host.Buffer(identityBytesMax)
	n, err := f.Read(raw)
	if err != nil {
		return err
	}
	_, err = decode(raw[:n])
	return err
}

// fullness looks whether a sound pool is full.
func fullness(path string, id Identity) Health {
	r, err := roomOf(path, mountOf(path, id.Kind))
	if err != nil {
		return failed(path, err)
	}
	if u := usageOf(r, id.ReservePercent); u.Available == 0 {
		return Health{Full, fmt.Sprintf("%d bytes are free, and the reserve of %d %% is %d", u.Free, id.ReservePercent, u.Reserve),
			"delete snapshots or volumes, or move volumes to another pool"}
	}
	return Health{State: Ready}
}

func readOnly(path string, id Identity) Health {
	return Health{ReadOnly, mountOf(path, id.Kind) + " takes no writes, as the kernel has it after an error",
		repairCure(path, id.Kind)}
}

// emergency reports whether a filesystem stopped taking writes without becoming
// read-only in name, which is what ext4 does since Linux 6.15.
func emergency(mount string) bool {
	var st unix.Stat_t
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || unix.Stat(mount, &st) != nil {
		return false
	}
	number := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line) // the filesystem's options are last
		if len(fields) > 2 && fields[2] == number && slices.Contains(strings.Split(fields[len(fields)-1], ","), "emergency_ro") {
			return true
		}
	}
	return false
}

func failed(path string, err error) Health {
	return Health{Failed, err.Error(), "see what the kernel says (dmesg) and check the disk of " + path +
		"; if it is lost, wipe the pool, and let the replicas elsewhere fill a new one"}
}

// repairCure says how to get a broken filesystem back into service.
func repairCure(path string, kind Kind) string {
	const look = "see what the kernel says (dmesg) and check the disk, then "
	if kind == Directory {
		return look + "unmount the filesystem of " + quote(path) + ", repair it, and mount it again"
	}
	return look + fmt.Sprintf("mount it anew: holdfast pool unmount %[1]s; holdfast pool remount %[1]s", quote(path))
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
