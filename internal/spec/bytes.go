package spec

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are what may stand behind a number of bytes, with or without a B.
var units = map[string]float64{
	"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50,
}

// ParseBytes reads a number of bytes as people and Kubernetes write it: 20Gi and 20GiB
// are 20 × 2^30, 20G and 20GB are 20 × 10^9, and a bare number is bytes.
func ParseBytes(text string) (int64, error) {
	digits := strings.TrimRight(text, "kKMGTPiB")
	number, err := strconv.ParseFloat(digits, 64)
	unit, known := units[strings.TrimSuffix(text[len(digits):], "B")]
	bytes := number * unit
	if err != nil || !known || !(bytes >= 0 && bytes < math.MaxInt64) || strings.Trim(digits, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is not a number of bytes: write one such as 20Gi, 512MiB or 1.5T", text)
	}
	return int64(bytes), nil
}
