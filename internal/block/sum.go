package block

import "hash/crc32"

// Sum is the CRC-32C (Castagnoli) of one block, computed where the data enters
// Holdfast and checked where it leaves, wherever it has been in between.
type Sum uint32

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ZeroSum is the checksum of a block of zeros, which is what a block that was never
// written, or was discarded, reads as.
var ZeroSum = Checksum(make([]byte, Size))

// Checksum returns the CRC-32C of p.
func Checksum(p []byte) Sum { return Sum(crc32.Checksum(p, castagnoli)) }

// Checksums fills sums with the checksum of each block of p; len(p) must be
// len(sums)*Size.
func Checksums(sums []Sum, p []byte) {
	for i := range sums {
		sums[i] = Checksum(p[i*Size : (i+1)*Size])
	}
}
