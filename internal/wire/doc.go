// Package wire is the conversation between a coordinator and a replica: what the frames
// look like and what they mean, not when they are sent. Package link carries them.
//
// It promises: what Append writes, Decode reads as the same message, and nothing else;
// what Decode accepts, Append writes as the same bytes; no sequence of bytes makes Decode
// panic or allocate more than a multiple of what it was given. The messages are plain
// structs without clocks, locks or memory of their own, so the simulator uses them too.
//
// # Connection and conversation
//
// A connection joins two nodes and carries conversations, many of them, each between one
// coordinator and one replica. A conversation is a channel, a number that the
// coordinator's end chose when it sent Open. Both ends may have coordinators: kinds that
// coordinators send (Kind.FromCoordinator) use the sender's numbers, kinds that replicas
// send (Kind.FromReplica) the receiver's. Channel 0 is the connection itself.
//
// A request has an id, which its answer echoes. Ids are the asker's to choose; one that
// is still unanswered must not be used again. Frames arrive in the order in which they
// were sent, answers come in any order.
//
// Each end begins with Hello, and goes on in the highest version that both know (Agree).
// Who can't go on says why with Refuse and ends the connection. Hello, Refuse and the
// header are the same in all versions, for ever.
//
// # Frame
//
// All numbers are little-endian. A frame is a header of 32 bytes, meta and data:
//
//	 0  sum      u32  CRC-32C of everything after it up to the end of the meta
//	 4  meta     u16  bytes of meta
//	 6  blocks   u16  blocks of data, 4096 bytes each; at most 256
//	 8  kind     u8   see below
//	 9  status   u8   Refuse and Fail: the kind of fault; else 0
//	10  flags    u16  see below; other bits are 0
//	12  channel  u32
//	16  id       u64
//	24  epoch    u64  of those messages that have one; else 0
//	32  meta
//	    data
//
// Header and meta together are called the head. The data is not part of the sum: every
// block's checksum is in the meta, was computed where the block entered Holdfast, and is
// compared where it is read again, so it need not be summed for each hop. That the length
// of the data is in the header lets a reader find an aligned buffer before the data comes.
//
// Data has whole blocks, and meta has no padding: the fields of the kind, then, for some,
// one list that takes the rest. There is one way to write a message, and a reader refuses
// any other: unknown kinds, flags and statuses, fields out of range, lists out of order
// or too long, bytes left over. A reader that refuses a frame refuses the connection.
//
// # Messages
//
// Fields in the header are marked with (h). Extents are start u64, count u32, in blocks.
// Blocks are the first of them u64, and 256 bits, of which bit i%64 of the u64 i/64 is set
// when block first+i is one of them; bit 0 is. Durations are nanoseconds, u64. Sizes are bytes, u64. Generations and regions are u32,
// epochs u64, ids 16 bytes.
//
//	 1 Hello          magic u64 ("holdfast"), lowest u16, highest u16, cluster, node,
//	                  incarnation u64, boot u64, features u64, name: UTF-8, at most 253
//	 2 Refuse         status (h), text: UTF-8, at most 1024
//	 3 Leave          text
//	 4 Ping
//	 5 Pong
//	 6 Open           volume, replica
//	 7 Opened         promised epoch (h), size, generation, incarnation u64, boot u64,
//	                  state u8 (1 serving, 2 failed, 3 leaving, 4 lost, 5 forgot), snapshots: generations, at most 4096
//	 8 Promise        epoch (h), same node (flag 4), owner node, owner incarnation u64, lease
//	 9 Promised       epoch (h), generation, lease
//	10 Renew          epoch (h), sequence u64
//	11 Renewed        sequence u64
//	12 Release        epoch (h)
//	13 Done           incarnation u64
//	14 Fail           status (h), epoch (h), wait: duration, block u64, text
//	15 Write          epoch (h), FUA (flag 1), extent, sums u32 each; data
//	16 Zero           epoch (h), FUA (flag 1), unmap (flag 2), extent
//	17 Read           epoch (h), generation, extent
//	18 ReadDone       sums u32 each; data
//	19 Flush          epoch (h), whole (flag 32)
//	20 Flushed        incarnation u64, mark u64
//	21 Verify         epoch (h), generation, extent
//	22 Verified       sums u32 each, at most 1024
//	23 Clean          epoch (h), mark u64
//	24 Snapshot       epoch (h), generation
//	25 DeleteSnapshot epoch (h), generation
//	26 Grow           epoch (h), size
//	27 Generations    epoch (h), list: generations, at most 4096
//	28 Regions        epoch (h), from region, limit u32
//	29 RegionList     last (flag 16), next region, list: region, epoch, dirty u8; at most 4096
//	30 Changed        epoch (h), since generation, generation, from region, limit u32
//	31 ExtentList     last (flag 16), next region, list: extents, at most 4096
//	32 Fill           epoch (h), hole (flag 8), generation, extent, sums u32 each; data
//	33 ReadBlocks     epoch (h), generation, blocks; since version 2
//	34 WriteBlocks    epoch (h), blocks, sums u32 each; data; since version 2
//	35 Seal           epoch (h), generation, step u8 (1 prepare, 2 end, 3 confirm); since version 4
//
// Statuses: 1 unknown, 2 invalid, 3 not found, 4 already exists, 5 precondition, 6 busy,
// 7 no space, 8 corrupt, 9 media error, 10 fenced, 11 unavailable, 12 timeout,
// 13 unsupported, 14 canceled, 15 denied, 16 internal.
//
// testdata/vN.hex shows every message of version N.
package wire
