package attach

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// SizeOf returns how many bytes the kernel says that a device has, without opening it:
// that might wait for who serves it.
func SizeOf(device string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "size"))
	if err != nil {
		return 0, fault.Errorf("attach.SizeOf", fault.KindOf(err), "%w", err)
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	return sectors * 512, fault.Wrap("attach.SizeOf", err)
}
