package block

import "hash/crc32"

// Sum is the checksum of one block, computed where the data enters Holdfast and checked
// where it leaves, wherever it has been in between. It also decides, in a resync and in a
// restore, whether two blocks are the same.
//
// It is CRC-32 with the polynomial of IEEE 802.3, and not CRC-32C, because ext4, XFS and
// btrfs put a CRC-32C into their own blocks: where it stands behind what it covers, as in
// ext4's superblock and directories, every version of the block has the same CRC-32C
// (docs/decisions/0008).
type Sum uint32

// ZeroSum is the checksum of a block of zeros, which is what a block that was never
// written, or was discarded, reads as.
var ZeroSum = Checksum(make([]byte, Size))

// Checksum returns the checksum of p, which is data of a volume.
func Checksum(p []byte) Sum { return Sum(crc32.ChecksumIEEE(p)) }

// Checksums fills sums with the checksum of each block of p; len(p) must be
// len(sums)*Size.
func Checksums(sums []Sum, p []byte) {
	for i := range sums {
		sums[i] = Checksum(p[i*Size : (i+1)*Size])
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// MetaSum returns the CRC-32C of p, which is Holdfast's own: a header, a table, a line.
func MetaSum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }
