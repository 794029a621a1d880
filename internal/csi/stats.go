package csi

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/holdfast-io/holdfast/internal/attach/mount"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// NodeGetVolumeStats says how full a volume's filesystem is, or how large its device.
func (n *node) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.VolumePath == "":
		return nil, missing("the volume's path")
	}
	path, number, err := shown(r.VolumePath)
	if err != nil {
		return nil, err
	}
	if number != 0 {
		size, err := deviceSize(number)
		if err != nil {
			return nil, err
		}
		return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{{Unit: csi.VolumeUsage_BYTES, Total: size}}}, nil
	}
	var f unix.Statfs_t
	if err := unix.Statfs(path, &f); err != nil {
		return nil, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: int64(f.Blocks) * f.Bsize, Available: int64(f.Bavail) * f.Bsize, Used: int64(f.Blocks-f.Bfree) * f.Bsize},
		{Unit: csi.VolumeUsage_INODES, Total: int64(f.Files), Available: int64(f.Ffree), Used: int64(f.Files - f.Ffree)},
	}}, nil
}

// shown returns the path that a volume is shown at, and the device's number if it is shown
// as a device, else 0. A path where nothing is shown is NotFound.
func shown(path string) (string, uint64, error) {
	path = real(path)
	if _, found, err := mount.At(path); err != nil || !found {
		if err == nil {
			err = refuse(codes.NotFound, "no volume is at %s", path)
		}
		return path, 0, err
	}
	st, err := stat(path)
	if err != nil {
		return path, 0, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return path, st.Rdev, nil
	}
	return path, 0, nil
}

// NodeExpandVolume makes a volume's filesystem as large as the volume. The device has
// grown, or is about to.
func (n *node) NodeExpandVolume(ctx context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	switch {
	case r.VolumeId == "":
		return nil, missing("the volume's id")
	case r.VolumePath == "":
		return nil, missing("the volume's path")
	}
	unlock, err := n.lock(ctx, r.VolumeId)
	if err != nil {
		return nil, err
	}
	defer unlock()
	path, number, err := shown(r.VolumePath)
	if err != nil {
		return nil, err
	}
	var m mount.Mounted
	if number == 0 {
		if m, _, err = mount.At(path); err != nil {
			return nil, err
		}
	} else {
		m.Device = number
	}
	size, err := grown(ctx, m.Device, r.GetCapacityRange().GetRequiredBytes())
	if err != nil {
		return nil, err
	}
	if number == 0 {
		if err := mount.Grow(ctx, m.Source); err != nil {
			return nil, err
		}
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: size}, nil
}

// How a device is waited for that is to grow.
const (
	growPoll = 50 * time.Millisecond
	growMax  = 30 * time.Second
)

// grown waits until a device has a size, and returns the one that it has.
func grown(ctx context.Context, number uint64, want int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, growMax)
	defer cancel()
	poll := time.NewTicker(growPoll)
	defer poll.Stop()
	for {
		size, err := deviceSize(number)
		if err != nil || size >= want {
			return size, err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return 0, fault.Errorf("csi.Expand", fault.Timeout, "the device has %d bytes, %d are asked for", size, want)
		}
	}
}

// deviceSize returns the size of a block device in bytes, without opening it.
func deviceSize(number uint64) (int64, error) {
	text, err := deviceSays(number, "size")
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(text, 10, 64)
	return sectors * 512, err
}

// deviceReadOnly reports whether a block device refuses writes.
func deviceReadOnly(number uint64) bool {
	text, err := deviceSays(number, "ro")
	return err == nil && text == "1"
}

func deviceSays(number uint64, what string) (string, error) {
	raw, err := os.ReadFile(filepath.Join("/sys/dev/block", fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number)), what))
	return strings.TrimSpace(string(raw)), err
}
