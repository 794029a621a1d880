package host

import (
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
)

// Boot names this boot of the machine: a number that every process sees until the machine
// starts again, and none afterwards. It is 0 when the kernel does not say.
func Boot() uint64 {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return 0
	}
	return parseBoot(string(text))
}

// parseBoot takes the first eight bytes of a random UUID.
func parseBoot(text string) uint64 {
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), "-", ""))
	if err != nil || len(raw) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(raw)
}
