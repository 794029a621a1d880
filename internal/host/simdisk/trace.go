package simdisk

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"

	"github.com/holdfast-io/holdfast/internal/fault"
	"github.com/holdfast-io/holdfast/internal/host"
)

var verbs = map[host.Kind]string{
	host.OpRead: "Read", host.OpWrite: "Write", host.OpSync: "Sync", host.OpPunch: "Punch",
	host.OpAllocate: "Allocate", host.OpTruncate: "Truncate", host.OpStat: "Stat",
	host.OpOpen: "Open", host.OpClose: "Close", host.OpRename: "Rename", host.OpLink: "Link",
	host.OpRemove: "Remove", host.OpMkdir: "Mkdir", host.OpList: "List",
	host.OpSyncDir: "SyncDir", host.OpSyncAll: "SyncAll", host.OpSpace: "Space",
}

// verb names a kind of operation.
func verb(k host.Kind) string {
	if v, ok := verbs[k]; ok {
		return v
	}
	return "Kind" + strconv.Itoa(int(k))
}

var flagNames = []struct {
	flag host.Flags
	name string
}{
	{host.Create, "create"}, {host.Exclusive, "exclusive"}, {host.Direct, "direct"},
	{host.ReadOnly, "readonly"}, {host.Lock, "lock"}, {host.LockWait, "wait"},
}

// traceOp reports an op that was performed.
func (d *Disk) traceOp(op *host.Op, path string, e Effect) {
	line := traceRequest(op, path)
	switch {
	case op.Err != nil:
		line += " = " + fault.KindOf(op.Err).String()
	case e == Misdirect:
		line += " = misdirected"
	case e == Lose:
		line += " = lost"
	}
	d.trace(line)
}

func traceRequest(op *host.Op, path string) string {
	line := strings.ToLower(verb(op.Kind))
	if onFile(op.Kind) || op.Path != "" {
		line += " " + tracePath(path)
	}
	switch op.Kind {
	case host.OpRead, host.OpWrite:
		line += fmt.Sprintf(" off=%d len=%d", op.Offset, len(op.Buf))
	case host.OpPunch, host.OpAllocate:
		line += fmt.Sprintf(" off=%d len=%d", op.Offset, op.Length)
	case host.OpTruncate:
		line += fmt.Sprintf(" size=%d", op.Length)
	case host.OpRename, host.OpLink:
		line += " " + tracePath(op.To)
	case host.OpOpen:
		sep := " "
		for _, f := range flagNames {
			if op.Flags&f.flag != 0 {
				line += sep + f.name
				sep = ","
			}
		}
	}
	return line
}

// tracePath quotes a path that would not read as one word.
func tracePath(path string) string {
	odd := func(r rune) bool { return r == '"' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if path == "" || strings.ContainsFunc(path, odd) {
		return strconv.Quote(path)
	}
	return path
}

func traceRot(path string, bit int64) string {
	return fmt.Sprintf("rot %s bit=%d", tracePath(path), bit)
}
