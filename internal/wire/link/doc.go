// Package link carries wire's frames over connections: TCP or Unix sockets, under TLS
// 1.3 or in the clear.
//
// It promises: a frame that was sent arrives once, whole, and after those sent before
// it, or the connection ends with an error that says why; the other end is the node that
// it says it is, of this cluster, when there is TLS; whatever the other end sends or
// fails to send costs no more memory than the written limits; and in steady state a
// frame costs no allocation, and a batch of frames one system call. (Package tls makes
// one small object whenever it reads from its socket.)
//
// # Use
//
// [Dial] and [Accept] shake hands. Then two goroutines of the caller's belong to the
// connection: one runs [Conn.Transmit], the other [Conn.Receive], until they return. Any
// goroutine may send. [Conn.Send] waits while the queue is full, [Conn.TrySend] does not;
// both leave the writing to Transmit. [Conn.Queue] makes a batch, which [Conn.Flush]
// writes from where it is called as far as that goes without waiting: one system call,
// and at low load a third less time for a round trip, for nobody must wake up. Receive
// flushes before it waits for frames, so handlers that it calls need only queue.
//
// Who handles frames must not wait in Send: when both ends do, each waits for the other
// to read. It uses Queue or TrySend, and Options.Room tells when there is room again.
//
// # Memory
//
// What is sent: the head of a frame is copied into the queue, so its message may be used
// again at once. The data is not; it must stay as it is until [Holder.Release] is called.
//
// What is received lives in a [Frame] until [Frame.Release]. Frames and their data come
// from a [Pool] that the connections of a node share. When a connection has as much of it
// as it may, or the pool has no more, nothing is read until something is released: then
// the sockets fill up, and the senders wait. So what is bounded behind this package is
// bounded before it. All conversations of a connection stand still then, heartbeats
// included: what they may have under way together should fit. A frame that waits for another connection to move (data that is read
// here to be sent there) must not be one of many: two nodes that fill each other's pools
// with such frames stand still.
//
// A connection itself takes some 100 KiB, with TLS 150, and up to Options.QueueBytesMax
// for the heads of what is queued.
//
// # Silence
//
// A connection whose other end vanished does not end by itself for half a minute or
// more. Who can't wait that long looks at [Conn.LastReceived], and sends a Ping, which the
// other end's Receive answers, when there was nothing for a while.
package link
