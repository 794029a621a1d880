// Package store keeps one replica's bytes in one directory.
//
// It promises: what Flush confirmed survives the loss of power; what a write
// confirmed survives the death of the process; a read returns what was last written
// or an error that names volume, generation and block, never something else; a
// snapshot costs one small file whatever the size of the volume.
//
// A [Replica] belongs to one goroutine, the one that drives its host.Disk. It starts
// no goroutine and reads no clock: requests are submitted with a Done function, and
// everything moves on when the disk completes an operation. Requests that overlap and
// are in flight together, one of them a write, are the caller's mistake: the
// coordinator's range lock orders them.
//
// # Format
//
// All numbers are little-endian. Checksums are CRC-32C, those of blocks of data CRC-32
// (see block.Sum). A replica is a directory:
//
//	replica.json        the manifest: ids, size, generations, promised epoch
//	lock                held by the process that has the replica open
//	regions             the region table, 32 bytes per region, updated in place
//	journal             the mapping journal, a ring of 4 KiB blocks
//	chunks/00000012.000003   chunk 12 as of generation 3
//	lost                only there after a failure: see [Replica.Lost]
//
// A chunk file holds the blocks that were written to its chunk during its
// generation, and a table of what the chunk looks like:
//
//	0        tables: region 0 copy A, copy B, region 1 copy A, ... 12 KiB each
//	393216   slots: 16384 blocks of 4 KiB, in the order of their first write
//
// A block written for the first time in a generation takes the file's next slot, and
// keeps it: a generation's file maps block to slot once, and later writes of the block
// go there in place. First writes are therefore sequential on the disk whatever their
// order in the volume, which is what makes them fast: a hole filled at random costs an
// extent each (docs/decisions/0002 has the figures that decided this).
//
// The table of a region says for each of its 1024 blocks: the checksum, the state
// (absent, zero, data, lost), the slot, and the holder, which is the generation whose file
// has the data. A table is complete: a region's first write in a generation copies the
// table of the generation before. So what a snapshot sees is found with one look-up,
// and the holder is also the generation of the block's last change.
//
// Tables are written lazily, to the copy that is not the newest, so a torn write costs
// nothing. Until then the mappings live in the journal, and the checksums in memory.
// The region table says which regions are dirty, that is: may hold blocks whose
// checksum on disk is older than the data. After a crash a mismatch in such a region,
// in a block written since the region became dirty, is settled in favour of the data.
//
// # Crash rules
//
//   - A region's record is durable, dirty and stamped with the epoch, before the first
//     write to the region.
//   - A first write is acknowledged when its data and its journal record are both on
//     disk (not yet durable). Flush makes data and journal durable, then writes a
//     marker that vouches for the records, and makes that durable.
//   - After the loss of power records beyond the last marker are forgotten: nobody was
//     promised their data. After the mere death of the process they all count, except
//     those whose data never arrived, which their checksum shows.
//   - A table is written only after a Flush of the mappings in it; the journal forgets
//     a mapping only when the table is durable and the region table demands it.
//   - A region is marked clean only when its tables are durable. A record names a newer
//     table only when the older ones are durable, so that a bad copy of those is damage,
//     not a write that was interrupted.
//
// A snapshot can be taken in steps, so that writes wait for no disk: see seal.go. The
// manifest names a generation that is about to end in its field sealing. Until it is a
// durable snapshot no flush is confirmed and no table written; after a loss of power files and
// records of later generations are given up.
//
// # Damage
//
// What is damaged is an error to who reads it, and to nobody else: a block whose data is
// bad, a region whose record or newest table is, a snapshot's view of a region. Writing a
// block again heals it. A region with bad metadata takes no write before [Replica.Reset],
// which gives up what it held, so that it can be filled from another copy.
//
// One thing can't be told by a replica alone: after a crash, a block that was written since
// its region became dirty, and whose checksum had not reached the disk, is believed as it
// lies there.
//
// A write or a sync that fails means that the replica lost something that it can't name:
// it fails for good, notes that in the file lost, and the next process shows what was
// flushed and says [Replica.Lost].
//
// # Limits
//
// Per open replica: Options.TablesMax tables in memory (11 KiB each; 2048), Options.FilesMax
// open files (1024), a 4 MiB journal on disk, 16384 views of snapshots remembered (24 bytes
// each), and 72 bytes for each region of 4 MiB that is ever touched, in groups of 128: 18
// MiB for a volume of 1 TiB that is full, 16 KiB for an empty one. Each chunk of 64 MiB that
// has files takes some 200 bytes and 4 for each file. It starts no goroutines; its tasks
// (see task.go) are coroutines of the owner's, a few at a time.
package store
