package csi

import (
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

type accessMode = csi.VolumeCapability_AccessMode_Mode

// modes are the ways in which a volume can be used: by one node at a time.
var modes = []accessMode{
	csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
	csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
}

// filesystems are those that are made at the first use.
var filesystems = []string{"ext4", "xfs"}

// check returns why a volume can't be used as it is wanted, or nil.
func check(c *csi.VolumeCapability) error {
	switch {
	case c == nil:
		return missing("the volume capability")
	case c.GetBlock() == nil && c.GetMount() == nil:
		return missing("the access type, block or mount,")
	case !slices.Contains(modes, c.GetAccessMode().GetMode()):
		return refuse(codes.InvalidArgument, "access mode %s: a volume is used by one node at a time", c.GetAccessMode().GetMode())
	}
	if fs := c.GetMount().GetFsType(); fs != "" && !slices.Contains(filesystems, fs) {
		return refuse(codes.InvalidArgument, "filesystem %q: use ext4 or xfs", fs)
	}
	if c.GetMount().GetVolumeMountGroup() != "" {
		return refuse(codes.InvalidArgument, "a group can't be given at the mount: the orchestrator sets it on the files")
	}
	return nil
}

// checkAll checks what a volume is to be used for, which may be several things.
func checkAll(all []*csi.VolumeCapability) error {
	if len(all) == 0 {
		return missing("the volume capabilities")
	}
	for _, c := range all {
		if err := check(c); err != nil {
			return err
		}
	}
	return nil
}

// readOnly reports whether a use of a volume never writes.
func readOnly(c *csi.VolumeCapability) bool {
	return c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY
}
