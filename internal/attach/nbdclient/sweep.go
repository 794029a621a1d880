package nbdclient

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-io/holdfast/internal/attach"
	"github.com/holdfast-io/holdfast/internal/attach/nbdclient/nbdctl"
	"github.com/holdfast-io/holdfast/internal/block"
	"github.com/holdfast-io/holdfast/internal/fault"
)

// Leftovers says which devices are looked at.
type Leftovers struct {
	Node    block.NodeID
	LinkDir string   // "" is attach.DefaultLinkDir
	Kept    []string // names of volumes whose devices a keeper has
}

// Sweep takes away devices of a node that the keeper does not have, and links to them. It
// returns their paths.
func (l Leftovers) Sweep() (gone []string, err error) {
	prefix, devices := identifierOf(l.Node, ""), nbdctl.List()
	for index, identifier := range devices {
		name, ours := strings.CutPrefix(identifier, prefix)
		if !ours || slices.Contains(l.Kept, name) {
			continue
		}
		if e := nbdctl.Disconnect(index); e != nil {
			err = errors.Join(err, e)
			continue
		}
		gone = append(gone, nbdctl.Path(index))
	}
	return gone, errors.Join(err, attach.SweepLinks(l.LinkDir, func(name, target string) bool {
		var index int
		if _, err := fmt.Sscanf(target, "/dev/nbd%d", &index); err != nil {
			return true // no business of ours
		}
		identifier, there := devices[index]
		if there && strings.HasPrefix(identifier, attach.FilePrefix) && !strings.HasPrefix(identifier, prefix) {
			return true // another node's
		}
		return identifier == prefix+name && slices.Contains(l.Kept, name)
	}))
}

// Abort ends the device of a volume from outside, whoever serves it, or nobody. It is
// fault.NotFound when there is none.
func (l Leftovers) Abort(volume string) error {
	for index, identifier := range nbdctl.List() {
		if identifier == identifierOf(l.Node, volume) {
			return nbdctl.Disconnect(index)
		}
	}
	return fault.Errorf("nbdclient.Abort", fault.NotFound, "no device of volume %q is attached here", volume)
}
