package hosttest

import (
	"fmt"

	"github.com/holdfast-io/holdfast/internal/host"
)

var verbs = map[host.Kind]string{
	host.OpRead: "read", host.OpWrite: "write", host.OpSync: "sync", host.OpPunch: "punch",
	host.OpAllocate: "allocate", host.OpTruncate: "truncate", host.OpStat: "stat",
	host.OpOpen: "open", host.OpClose: "close", host.OpRename: "rename", host.OpLink: "link",
	host.OpRemove: "remove", host.OpMkdir: "mkdir", host.OpList: "list",
	host.OpSyncDir: "syncdir", host.OpSyncAll: "syncall", host.OpSpace: "space",
}

// describe names op in a failure message.
func describe(op *host.Op) string {
	verb := verbs[op.Kind]
	switch op.Kind {
	case host.OpRead, host.OpWrite:
		return fmt.Sprintf("%s offset=%d len=%d", verb, op.Offset, len(op.Buf))
	case host.OpPunch, host.OpAllocate:
		return fmt.Sprintf("%s offset=%d length=%d", verb, op.Offset, op.Length)
	case host.OpTruncate:
		return fmt.Sprintf("%s length=%d", verb, op.Length)
	case host.OpRename, host.OpLink:
		return fmt.Sprintf("%s %.40q to %.40q", verb, op.Path, op.To)
	case host.OpOpen:
		return fmt.Sprintf("%s %.40q flags=%05b", verb, op.Path, op.Flags)
	case host.OpRemove, host.OpMkdir, host.OpList, host.OpSyncDir:
		return fmt.Sprintf("%s %.40q", verb, op.Path)
	case host.OpSync, host.OpStat, host.OpClose, host.OpSyncAll, host.OpSpace:
		return verb
	}
	return fmt.Sprintf("kind %d", op.Kind)
}
