package attach

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Users returns the processes that have the device at path open, as far as this one can
// see them.
func Users(path string) (pids []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is good
	for _, link := range links {
		pid := strings.Split(link, "/")[2]
		if target, err := os.Readlink(link); err == nil && target == path && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}
