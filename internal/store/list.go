package store

import (
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

// Listed is a directory of a disk's root that List found.
type Listed struct {
	Dir string
	// Unfinished means that Create, Clone or Delete was cut short: nothing needs the
	// directory, and Delete of the name without UnfinishedSuffix removes it.
	Unfinished bool
	Manifest   Manifest // of a replica, when Err is nil
	// Err is why it can't be opened: NotFound when it is no replica, Corrupt,
	// Unsupported, Media.
	Err error
}

// List tells which replicas there are on a disk, open or not, by the directories in its
// root. It reads their manifests only, so what one says may be older than what it is.
func List(d host.Disk, done func([]Listed, error)) {
	r := newReplica(d, ".", Options{})
	r.spawn("list", func(t *task) {
		list, err := t.list()
		done(list, fault.Wrap("store.List", err))
	})
}

func (t *task) list() (list []Listed, err error) {
	op, err := t.do(host.Op{Kind: host.OpList, Path: "."})
	if err != nil {
		return nil, err
	}
	for _, e := range op.Entries {
		if !e.Dir {
			continue
		}
		x := Listed{Dir: e.Name, Unfinished: strings.HasSuffix(e.Name, newSuffix)}
		if !x.Unfinished {
			t.r.dir = e.Name
			x.Err = t.readManifest()
			x.Manifest = t.r.man
		}
		list = append(list, x)
	}
	return list, nil
}
