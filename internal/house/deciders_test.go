package house

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
)

// impure are packages that a decider may not import, with all below them. time is not
// among them, for time.Duration; its clocks are caught as calls.
var impure = []string{"sync", "net", "os", "io/fs", "syscall", "golang.org/x/sys", "log", "math/rand", "crypto/rand",
	"context", "runtime", "unsafe", module + "internal/obs"}

func decidersArePure(f *file) (wrong []string) {
	if f.ast == nil || f.isTest() || floorOf(f) != deciders {
		return nil
	}
	for _, spec := range f.ast.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		if slices.ContainsFunc(impure, func(p string) bool { return path == p || strings.HasPrefix(path, p+"/") }) {
			wrong = append(wrong, fmt.Sprintf("%d: a decider imports %s", f.line(spec), path))
		}
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if n != nil && f.calls(n, "time", "Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker") {
			wrong = append(wrong, fmt.Sprintf("%d: a decider looks at the clock: take the time as a parameter", f.line(n)))
		}
		switch n.(type) {
		case *ast.ChanType, *ast.SelectStmt:
			wrong = append(wrong, fmt.Sprintf("%d: a decider waits on a channel: return an effect instead", f.line(n)))
		}
		return true
	})
	return wrong
}

// startsGoroutines are the rooms below the workers that may, with the reason.
var startsGoroutines = map[string]string{
	"host":  "blocking system calls need threads where the kernel has no ring",
	"state": "a watch is a stream",
}

func goroutinesHaveWorkers(f *file) (wrong []string) {
	if f.ast == nil || f.isTest() || startsGoroutines[roomOf(f.dir())] != "" || floorOf(f) >= workers {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if _, ok := n.(*ast.GoStmt); ok {
			wrong = append(wrong, fmt.Sprintf("%d: a goroutine starts here", f.line(n)))
		}
		return true
	})
	return wrong
}

// floorOf returns the floor of the file's room; outside the rooms, beside.
func floorOf(f *file) floor {
	if i := place(roomOf(f.dir())); i >= 0 {
		return rooms[i].floor
	}
	return beside
}
