package attach

// Mapper is a [Backend] that can tell which parts of its volume hold data, for clients
// that copy a volume and want to leave out the rest. A backend that is none has data
// everywhere.
type Mapper interface {
	Backend
	// Map begins a question, on the loop's goroutine, without blocking. It is the
	// backend's until it calls Done, on the same goroutine, possibly inside Map.
	Map(*Question)
}

// Question asks what a range of a volume holds. Its asker owns it, except between Map
// and Done.
type Question struct {
	// Offset and Length are a range within the volume, multiples of Options.BlockSize.
	Offset, Length int64

	// Extents are the answer: what comes one after the other from Offset on. The asker
	// gives it empty, with a capacity of at least one; the backend appends at least one
	// extent, no more than the capacity has room for, and need not come to the range's end.
	// Neighbours may be alike.
	Extents []Extent
	// Err is set instead of that; nil is success.
	Err error
	// Done ends the question. The backend calls it once.
	Done func(*Question)
}

// Extent is a piece of a volume.
type Extent struct {
	Length int64
	// Hole says that it takes no space and reads as zeros. What was written while the
	// question was under way may be a hole in the answer.
	Hole bool
}

// End sets Err and calls Done.
func (q *Question) End(err error) {
	q.Err = err
	q.Done(q)
}
