package store

import "github.com/holdfast-io/holdfast/internal/fault"

// flights knows which writes are not done, oldest first. Writes are numbered as they
// begin; they end in any order.
type flights struct {
	first uint64 // number of the first entry
	ended []bool // by number - first
}

func (f *flights) begin(number uint64) {
	if len(f.ended) == 0 {
		f.first = number
	}
	f.ended = append(f.ended, false)
}

func (f *flights) end(number uint64) {
	f.ended[number-f.first] = true
	n := 0
	for n < len(f.ended) && f.ended[n] {
		n++
	}
	if n == len(f.ended) || n > 64 { // not for each: the rest is moved down
		f.first += uint64(n)
		f.ended = append(f.ended[:0], f.ended[n:]...)
	}
}

// through returns the number up to which all writes are done; last is that of the last
// one that began.
func (f *flights) through(last uint64) uint64 {
	for i, ended := range f.ended {
		if !ended {
			return f.first + uint64(i) - 1
		}
	}
	return last
}

// Mark returns the moment up to which every write is done, to be given to Clean after a
// Flush that was submitted at this moment. What is in flight is after it: a flush does
// not cover it.
func (r *Replica) Mark() uint64 {
	if fault.Planted("clean covers what is in flight") {
		return r.writes
	}
	return r.flights.through(r.writes)
}
