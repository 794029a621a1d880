package block

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
)

// A filesystem that ends its structures with their CRC-32C makes all versions of such a
// block one and the same to CRC-32C. A resync that goes by checksums must see them differ.
func TestVersionsOfABlockThatCarriesItsOwnChecksumHaveDifferentSums(t *testing.T) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, place := range []struct {
		what       string
		start, end int // of the structure; its checksum is its last four bytes
	}{
		{"a superblock of ext4", 1024, 2048},
		{"a directory of ext4", 0, Size},
	} {
		seen := map[Sum]byte{}
		for version := byte(1); version < 200; version++ {
			b := make([]byte, Size)
			b[place.start+100] = version
			covered := b[place.start : place.end-4]
			// As ext4 computes it: begun with ones, and not inverted in the end.
			binary.LittleEndian.PutUint32(b[place.end-4:], ^crc32.Checksum(covered, table))
			if old, again := seen[Checksum(b)]; again {
				t.Fatalf("%s: versions %d and %d have the same sum", place.what, old, version)
			}
			seen[Checksum(b)] = version
		}
	}
}
