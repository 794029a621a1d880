package cli

import (
	"fmt"
	"math"

	"github.com/holdfast-io/holdfast/internal/spec"
)

// quantity is a number of bytes, read by spec.ParseBytes. It is a flag (pflag.Value).
type quantity int64

// String prints the quantity in binary units, or as "" when it is 0.
func (q *quantity) String() string {
	if *q == 0 {
		return ""
	}
	return bytesText(int64(*q))
}

// Set reads a quantity.
func (q *quantity) Set(text string) error {
	bytes, err := spec.ParseBytes(text)
	if err != nil {
		return fmt.Errorf("want a number of bytes such as 20Gi, 512MiB or 1.5T")
	}
	*q = quantity(bytes)
	return nil
}

// Type names what the flag takes, for help.
func (q *quantity) Type() string { return "bytes" }

// bytesText prints a number of bytes for people: 4 significant digits at most.
func bytesText(bytes int64) string {
	size, unit := float64(bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if math.Abs(size) < 1024 {
			break
		}
		size, unit = size/1024, next
	}
	if unit == "B" || size >= 100 {
		return fmt.Sprintf("%.0f %s", size, unit)
	}
	return fmt.Sprintf("%.1f %s", size, unit)
}
