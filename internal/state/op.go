package state

import (
	"bytes"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// Limits of a commit, which are those of etcd with a margin.
const (
	OpsMax       = 120
	CommitBytes  = 1 << 20 // of all keys and values
	KeyLengthMax = 1024
)

// LeaseID names a lease within its store; 0 is none.
type LeaseID int64

// Must says what has to be so with a key for a commit to happen.
type Must uint8

// The conditions.
const (
	MustNothing Must = iota
	MustBeMissing
	MustBeAt // Op.Revision
)

// Does says what a commit does to a key.
type Does uint8

// The effects.
const (
	DoesNothing Does = iota
	DoesPut
	DoesDelete
)

// Op is a part of a commit: a condition, an effect, or both, on one key. Make one with the
// functions below; its fields are for the implementations of Store.
type Op struct {
	Key      string
	Must     Must
	Revision Revision // of MustBeAt
	Does     Does
	Value    []byte
	Lease    LeaseID // the value goes away with it
	Err      error   // the op could not be made; the commit fails with it
}

// Create puts a value under a key that must not exist.
func Create(key string, value []byte) Op {
	return Op{Key: key, Must: MustBeMissing, Does: DoesPut, Value: value}
}

// Put puts a value under a key, whatever is there.
func Put(key string, value []byte) Op { return Op{Key: key, Does: DoesPut, Value: value} }

// Replace puts a value under a key that must be as it was at the revision.
func Replace(key string, value []byte, revision Revision) Op {
	return Op{Key: key, Must: MustBeAt, Revision: revision, Does: DoesPut, Value: value}
}

// Delete deletes a key that must be as it was at the revision, or, with revision 0, the
// key if it exists.
func Delete(key string, revision Revision) Op {
	op := Op{Key: key, Revision: revision, Does: DoesDelete}
	if revision != 0 {
		op.Must = MustBeAt
	}
	return op
}

// Require is the condition that a key is as it was at the revision, or, with revision 0,
// that it does not exist.
func Require(key string, revision Revision) Op {
	if revision == 0 {
		return Op{Key: key, Must: MustBeMissing}
	}
	return Op{Key: key, Must: MustBeAt, Revision: revision}
}

// Check returns what is wrong with the ops of a commit, before anybody is asked.
func Check(ops []Op) error {
	invalid := func(format string, args ...any) error {
		return fault.Errorf("state.Commit", fault.Invalid, format, args...)
	}
	if len(ops) > OpsMax {
		return invalid("%d operations are more than the %d that fit into a commit", len(ops), OpsMax)
	}
	size, changed := 0, make(map[string]bool, len(ops))
	for _, op := range ops {
		switch {
		case op.Err != nil:
			return fault.Wrap("state.Commit", op.Err)
		case op.Key == "" || len(op.Key) > KeyLengthMax:
			return invalid("a key of %d bytes: want 1 to %d", len(op.Key), KeyLengthMax)
		case op.Does != DoesNothing && changed[op.Key]:
			return invalid("%q is changed twice in one commit", op.Key)
		}
		changed[op.Key] = changed[op.Key] || op.Does != DoesNothing
		size += len(op.Key) + len(op.Value)
	}
	if size > CommitBytes {
		return invalid("%d bytes are more than the %d that fit into a commit", size, CommitBytes)
	}
	return nil
}

// Clone returns an item that shares nothing with i.
func (i Item) Clone() Item {
	i.Value = bytes.Clone(i.Value)
	return i
}
