package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// quantity is a number of bytes, read as Kubernetes reads one: 20Gi is 20 × 2^30, 20G
// is 20 × 10^9, and a bare number is bytes. It is a flag (pflag.Value).
type quantity int64

var units = map[string]float64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
}

// String prints the quantity in binary units, or as "" when it is 0.
func (q *quantity) String() string {
	if *q == 0 {
		return ""
	}
	return bytesText(int64(*q))
}

// Set reads a quantity.
func (q *quantity) Set(text string) error {
	digits := strings.TrimRight(text, "kKMGTPi")
	number, err := strconv.ParseFloat(digits, 64)
	unit, known := units[text[len(digits):]]
	bytes := number * unit
	if err != nil || !known || !(bytes >= 0 && bytes < math.MaxInt64) || strings.ContainsAny(digits, "xXpPeE_nN") {
		return fmt.Errorf("want a number of bytes such as 20Gi, 512Mi or 1.5T")
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
