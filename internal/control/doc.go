// Package control brings what is toward what is wished for, one reconciler a kind, on the
// elected leader.
//
// [Run] campaigns, and while it leads it keeps everything that the state holds in memory,
// decides what is the next step for whatever changed, and commits it. Decisions are plain
// functions of what is known and the time; they do not remember anything. So a leader may
// die between any two commits, or not hear whether its last one was done: the next leader
// looks, and goes on from there. Every commit carries the condition that this is still the
// leader, and the revisions of what the decision relied on.
//
// # Who does what
//
// Control decides where a volume's replicas are to be (its assignment), and writes the
// volume's record once, together with the first assignment. From then on the record is
// changed by the volume's head alone; control looks at it and follows:
//
//   - A new replica is put into the assignment; the head takes it into the record, and
//     fills it.
//   - A replica that is to go is marked as leaving, and only when as many others as the
//     volume wants are in sync. The head takes it out of the record. Only then control
//     takes it out of the assignment, and condemns it.
//   - A volume that is not attached has its head run somewhere (tended) for as long as
//     there is something to do for it.
//
// Control never takes a volume away from the node it is attached to; it says when that
// node is down. What people force is done because they said so.
package control
