package pool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// format is the version of pool.json that this release writes, and the only one it
// reads. Version history: add a line and a testdata file, never edit an old one.
//
//	1  first
const format = 1

// identityBytesMax is more than any identity needs; a larger file is damage.
const identityBytesMax = 64 << 10

// Kind says what a pool's filesystem is on.
type Kind string

// The kinds.
const (
	Directory Kind = "directory" // a directory of a filesystem that was there before
	Image     Kind = "image"     // an XFS filesystem in a file
	Device    Kind = "device"    // an XFS filesystem on a block device
)

// Class says how fast a pool is, in the words of Portworx's io_priority.
type Class string

// The classes; see Figures.Class for what they mean.
const (
	High   Class = "high"
	Medium Class = "medium"
	Low    Class = "low"
)

// The limits of Identity.ReservePercent.
const (
	ReserveDefault = 5
	ReserveMin     = 1
	ReserveMax     = 50
)

// Identity says what a pool is. As a file, pool.json, it is a JSON object with the
// version of the format, the CRC-32C of version and identity, and the identity. A file
// that differs in any bit from what was written is refused.
type Identity struct {
	Cluster        block.ClusterID `json:"cluster"`
	Pool           block.PoolID    `json:"pool"`
	Created        time.Time       `json:"created"` // UTC, whole seconds
	Kind           Kind            `json:"kind"`
	Device         string          `json:"device,omitempty"` // of kind Device: its name at creation
	ReservePercent int             `json:"reservePercent"`   // of the capacity, kept free
	Class          Class           `json:"class"`
	ClassGiven     bool            `json:"classGiven"` // by a person; else it is what was measured
	Measured       Figures         `json:"measured"`   // at creation
}

// setClass gives the pool a class; "" is the measured one.
func (id *Identity) setClass(class Class) {
	id.Class, id.ClassGiven = class, class != ""
	if !id.ClassGiven {
		id.Class = id.Measured.Class()
	}
}

// validate returns what is wrong with the identity.
func (id *Identity) validate() error {
	switch {
	case id.Cluster.IsZero() || id.Pool.IsZero():
		return errors.New("cluster or pool id is missing")
	case id.Kind != Directory && id.Kind != Image && id.Kind != Device:
		return fmt.Errorf("kind %q is none of %s, %s, %s", id.Kind, Directory, Image, Device)
	case (id.Kind == Device) != (id.Device != ""):
		return fmt.Errorf("a pool of kind %s with device %q", id.Kind, id.Device)
	case id.Class != High && id.Class != Medium && id.Class != Low:
		return fmt.Errorf("class %q is none of %s, %s, %s", id.Class, High, Medium, Low)
	case id.ReservePercent < ReserveMin || id.ReservePercent > ReserveMax:
		return fmt.Errorf("a reserve of %d %% is not between %d and %d", id.ReservePercent, ReserveMin, ReserveMax)
	case id.Created.IsZero() || id.Created.Location() != time.UTC || id.Created.Nanosecond() != 0:
		return errors.New("created is not a time in UTC, in whole seconds")
	}
	return nil
}

// envelope is what every version of the file looks like.
type envelope struct {
	Format int             `json:"format"`
	CRC32C string          `json:"crc32c"` // of "<format> <pool as compact JSON>", 8 hexadecimal digits
	Pool   json.RawMessage `json:"pool"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (e *envelope) sum() (string, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d ", e.Format)
	if err := json.Compact(&b, e.Pool); err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x", crc32.Checksum(b.Bytes(), castagnoli)), nil
}

// encode returns the identity's file. The identity must be valid.
func (id Identity) encode() ([]byte, error) {
	if err := id.validate(); err != nil {
		return nil, err
	}
	body, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	e := envelope{Format: format, Pool: body}
	if e.CRC32C, err = e.sum(); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(e, "", "  ")
	return append(out, '\n'), err
}

// decode reads what encode wrote, and nothing else: Corrupt for any other bytes, except
// those of an intact file of another format, which are Unsupported.
func decode(raw []byte) (Identity, error) {
	corrupt := func(err error) (Identity, error) {
		return Identity{}, fault.E("identity", fault.Corrupt, block.VolumeID{}, err)
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return corrupt(err)
	}
	if sum, err := e.sum(); err != nil || sum != e.CRC32C {
		return corrupt(errors.New("the checksum is wrong"))
	}
	if e.Format != format {
		return Identity{}, fault.WithCure(fault.Errorf("identity", fault.Unsupported,
			"the pool is of format %d; this release knows format %d only", e.Format, format),
			"use the release of holdfast that made the pool, or a newer one")
	}
	var id Identity
	if err := json.Unmarshal(e.Pool, &id); err != nil {
		return corrupt(err)
	}
	again, err := id.encode()
	if err != nil {
		return corrupt(err)
	}
	if !bytes.Equal(raw, again) { // what the checksum doesn't see: spaces, upper case
		return corrupt(errors.New("it is not as it was written"))
	}
	return id, nil
}

// loadOuter reads the identity at a pool's path, and checks that the pool is whole and
// is o's to open.
func loadOuter(path string, o OpenOptions) (Identity, error) {
	if _, err := os.Lstat(filepath.Join(path, unfinishedName)); err == nil {
		return Identity{}, fault.WithCure(fault.Errorf("identity", fault.Precondition,
			"the pool at %s was only half made, or half wiped, when it was interrupted", path),
			"remove what is left: "+damagedCommand(path))
	}
	id, err := loadIdentity(path, damagedCommand(path))
	if err != nil {
		return Identity{}, err
	}
	if !o.AnyCluster && id.Cluster != o.Cluster {
		return Identity{}, fault.WithCure(fault.Errorf("identity", fault.Precondition,
			"the pool at %s belongs to cluster %s, not to %s", path, id.Cluster, o.Cluster),
			fmt.Sprintf("if nothing in it is needed, wipe it: %s", wipeCommand(path, id.Pool)))
	}
	return id, nil
}

func wipeCommand(path string, pool block.PoolID) string {
	return fmt.Sprintf("holdfast pool wipe %s --pool %s", quote(path), pool)
}

// damagedCommand wipes a pool that doesn't know what it is.
func damagedCommand(path string) string {
	return fmt.Sprintf("holdfast pool wipe %s --damaged", quote(path))
}

// loadIdentity reads the identity in dir. A damaged one is never used, nor is the copy
// put in its place without a person: the error says whether the copy is good, or names
// the command wipe.
func loadIdentity(dir, wipe string) (Identity, error) {
	id, err := readIdentity(filepath.Join(dir, identityName))
	switch {
	case err == nil:
		return id, nil
	case fault.Is(err, fault.NotFound) && !exists(filepath.Join(dir, copyName)):
		return Identity{}, noPool(dir)
	case fault.Is(err, fault.NotFound):
		err = fault.Errorf("identity", fault.Corrupt, "%s is gone from the pool", filepath.Join(dir, identityName))
	case !fault.Is(err, fault.Corrupt):
		return Identity{}, err
	}
	cure := "give the pool up, and let the replicas elsewhere fill a new one: " + wipe
	if _, bad := readIdentity(filepath.Join(dir, copyName)); bad == nil {
		cure = fmt.Sprintf("put the copy, which is good, in its place: cp %s %s",
			quote(filepath.Join(dir, copyName)), quote(filepath.Join(dir, identityName)))
	}
	return Identity{}, fault.WithCure(err, cure)
}

func readIdentity(name string) (Identity, error) {
	if info, err := os.Stat(name); err == nil && info.Size() > identityBytesMax {
		return Identity{}, fault.Errorf("identity", fault.Corrupt, "%s is damaged: it has %d bytes", name, info.Size())
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return Identity{}, err
	}
	id, err := decode(raw)
	if fault.Is(err, fault.Corrupt) {
		err = fault.Errorf("identity", fault.Corrupt, "%s is damaged: %w", name, errors.Unwrap(err))
	}
	return id, err
}

// saveBoth makes an identity durable in a pool's filesystem and, of images and devices,
// at its path: inside first, because that is the one that is believed.
func saveBoth(path, mount string, id Identity) error {
	if err := saveIdentity(mount, id); err != nil || path == mount {
		return err
	}
	return saveIdentity(path, id)
}

// saveIdentity makes id durable in dir; a crash leaves the old one or the new one.
func saveIdentity(dir string, id Identity) error {
	raw, err := id.encode()
	if err != nil {
		return fault.E("identity", fault.Internal, block.VolumeID{}, err)
	}
	for _, name := range []string{copyName, identityName} {
		if err := replaceFile(dir, name, raw); err != nil {
			return err
		}
	}
	return nil
}

// newSuffix is on the name of a file that is being written.
const newSuffix = ".new"

// replaceFile durably puts a file with the given bytes in the place of name.
func replaceFile(dir, name string, raw []byte) error {
	temp := filepath.Join(dir, name+newSuffix)
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
