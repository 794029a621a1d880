package pool

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// blockClass is where the kernel lists block devices and partitions by name.
const blockClass = "/sys/class/block"

var wipefs = tool{"wipefs", "util-linux"}

// checkDevice refuses a device that must not be overwritten: one that is in use, always,
// and one that carries something, unless forced.
func checkDevice(ctx context.Context, device string, force bool) error {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		uses := strings.Join(usesOf(device), ", ")
		if uses == "" {
			uses = "something that is not visible from here"
		}
		return fault.WithCure(fault.Errorf("device", fault.Busy, "%s is in use: %s", device, uses),
			"free it (umount, swapoff, vgchange -an, mdadm --stop), or name another device")
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return fault.Errorf("device", fault.Invalid, "%s is not a block device", device)
	}
	if size, err := f.Seek(0, 2); err != nil || size < xfsBytesMin {
		return fault.Errorf("device", fault.Invalid, "%s has %d bytes; a pool needs at least %d MiB", device, size, xfsBytesMin>>20)
	}
	found, err := contentsOf(ctx, device)
	if err != nil || len(found) == 0 || force {
		return err
	}
	return fault.WithCure(fault.Errorf("device", fault.Precondition, "%s is not empty: it carries %s", device, strings.Join(found, ", ")),
		"if nothing of that is needed, overwrite it with --force")
}

// contentsOf describes the signatures and partitions that a device carries.
func contentsOf(ctx context.Context, device string) ([]string, error) {
	out, err := run(ctx, wipefs, "--json", "--no-act", device)
	if err != nil {
		return nil, err
	}
	var list struct {
		Signatures []struct{ Type, UUID, Label string }
	}
	if len(bytes.TrimSpace(out)) > 0 {
		if err := json.Unmarshal(out, &list); err != nil {
			return nil, fault.Errorf("device", fault.Internal, "what wipefs prints can't be read: %w", err)
		}
	}
	var found []string
	for _, s := range list.Signatures {
		what := s.Type + partitionTable(s.Type)
		if s.Label != "" {
			what += " labelled " + strconv.Quote(s.Label)
		}
		if s.UUID != "" {
			what += " (UUID " + s.UUID + ")"
		}
		found = append(found, what)
	}
	for _, part := range partitionsOf(device) {
		found = append(found, "partition "+part)
	}
	return found, nil
}

func partitionTable(signature string) string {
	switch signature {
	case "gpt", "dos", "PMBR", "bsd", "sgi", "sun", "mac":
		return " partition table"
	}
	return ""
}

// wipeDevice removes all signatures from a device, and its partitions from the kernel.
func wipeDevice(ctx context.Context, device string) error {
	_, err := run(ctx, wipefs, "--all", device)
	return err
}

// kernelName returns the name of a device in sysfs: sda, nvme0n1, dm-3.
func kernelName(device string) string {
	if real, err := filepath.EvalSymlinks(device); err == nil {
		device = real
	}
	return strings.ReplaceAll(strings.TrimPrefix(device, "/dev/"), "/", "!")
}

// partitionsOf returns the kernel names of a device's partitions.
func partitionsOf(device string) []string {
	name := kernelName(device)
	found, _ := filepath.Glob(filepath.Join(blockClass, name, name+"*", "partition")) // the pattern is good
	for i, part := range found {
		found[i] = filepath.Base(filepath.Dir(part))
	}
	return found
}

// holdersOf returns the kernel names of the devices that are built on a device: LVM,
// RAID, multipath, encryption.
func holdersOf(name string) []string {
	holders, err := os.ReadDir(filepath.Join(blockClass, name, "holders"))
	if err != nil {
		return nil
	}
	var names []string
	for _, h := range holders {
		names = append(names, h.Name())
	}
	return names
}

// usesOf says for what a device and its partitions are used, as far as it can be seen.
func usesOf(device string) []string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	swaps, _ := os.ReadFile("/proc/swaps")
	var uses []string
	for _, name := range append([]string{kernelName(device)}, partitionsOf(device)...) {
		node := "/dev/" + strings.ReplaceAll(name, "!", "/")
		number, _ := os.ReadFile(filepath.Join(blockClass, name, "dev"))
		for line := range strings.Lines(string(mounts)) {
			// id parent major:minor root mountpoint ... - type source options
			fields := strings.Fields(line)
			if len(fields) > 4 && (fields[2] == strings.TrimSpace(string(number)) || strings.Contains(line, " "+node+" ")) {
				uses = append(uses, fmt.Sprintf("%s is mounted at %s", name, fields[4]))
			}
		}
		for line := range strings.Lines(string(swaps)) {
			if strings.HasPrefix(line, node+" ") {
				uses = append(uses, name+" is swap space")
			}
		}
		for _, holder := range holdersOf(name) {
			uses = append(uses, fmt.Sprintf("%s is part of %s", name, holder))
		}
	}
	return uses
}

// findDevice returns the block device with a pool's filesystem: the one that has the
// name it had at creation, or else the one that has its UUID under whatever name.
func findDevice(ctx context.Context, pool block.PoolID, hint string) (string, error) {
	if uuid, ok := xfsUUID(hint); ok && uuid == pool {
		return hint, nil
	}
	names, err := os.ReadDir(blockClass)
	if err != nil {
		return "", err
	}
	var found []string
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return "", fault.E("device", fault.Canceled, block.VolumeID{}, err)
		}
		if software(n.Name()) && !software(kernelName(hint)) {
			continue
		}
		size, err := os.ReadFile(filepath.Join(blockClass, n.Name(), "size"))
		if err != nil || strings.TrimSpace(string(size)) == "0" || len(holdersOf(n.Name())) > 0 {
			continue // nothing in it; or only a part of a device that is listed too
		}
		device := "/dev/" + strings.ReplaceAll(n.Name(), "!", "/")
		if uuid, ok := xfsUUID(device); ok && uuid == pool {
			found = append(found, device)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fault.WithCure(fault.Errorf("device", fault.NotFound,
			"no block device carries the pool's filesystem (UUID %s); it was %s when the pool was made", pool, hint),
			"attach the device again; if it is lost, wipe the pool with --damaged, and let the replicas elsewhere fill a new one")
	}
	return "", fault.WithCure(fault.Errorf("device", fault.Precondition,
		"%s carry the same filesystem (UUID %s)", strings.Join(found, " and "), pool), "detach the copy")
}

// software reports whether a device may be served by a program. Reading one would wait
// for the program, and it may be us: a volume of ours, whose replica is in this pool.
func software(name string) bool {
	return strings.HasPrefix(name, "loop") || strings.HasPrefix(name, "ublk") || strings.HasPrefix(name, "nbd")
}

// xfsUUID reads the UUID of the XFS filesystem on a device; ok is false when there is
// none, or the device can't be read.
func xfsUUID(device string) (uuid block.PoolID, ok bool) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_NONBLOCK, 0) // no wait for a disc to be put in
	if err != nil {
		return uuid, false
	}
	defer f.Close()
	super := make([]byte, 48) // of the superblock: magic at 0, UUID at 32
	if _, err := f.ReadAt(super, 0); err != nil || string(super[:4]) != "XFSB" {
		return uuid, false
	}
	copy(uuid[:], super[32:])
	return uuid, true
}
