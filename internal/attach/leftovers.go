package attach

import (
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/holdfast-io/holdfast/internal/attach/fusectl"
	"github.com/holdfast-io/holdfast/internal/block"
)

// FilePrefix begins the name of every file that a loop device of ours is over.
const FilePrefix = "holdfast."

// FileName is the name of the file that a loop device of ours is over. It is all that
// is left of a device whose processes are dead, and it can be read, in sysfs, without
// asking anybody who may not answer.
type FileName struct {
	Node       string // first 4 bytes of the node's id, in hexadecimal
	Connection fusectl.Connection
	Volume     string // the volume's name
}

// NewFileName returns the name of a volume's file.
func NewFileName(node block.NodeID, c fusectl.Connection, volume string) FileName {
	return FileName{Node: shortNode(node), Connection: c, Volume: volume}
}

func shortNode(node block.NodeID) string { return hex.EncodeToString(node[:4]) }

// String prints the name.
func (n FileName) String() string {
	return FilePrefix + n.Node + "." + n.Connection.String() + "." + n.Volume
}

// ParseFileName reads what String printed, with or without the slash that sysfs puts
// before it.
func ParseFileName(s string) (n FileName, ok bool) {
	rest, ours := strings.CutPrefix(strings.TrimPrefix(s, "/"), FilePrefix)
	parts := strings.SplitN(rest, ".", 3)
	if !ours || len(parts) != 3 || len(parts[0]) != 8 || !ValidName(parts[2]) {
		return FileName{}, false
	}
	c, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil {
		return FileName{}, false
	}
	return FileName{Node: parts[0], Connection: fusectl.Connection(c), Volume: parts[2]}, true
}
