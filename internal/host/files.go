package host

// file is an open file of a Dir.
type file struct {
	fd      int
	path    string
	flags   Flags
	direct  bool // the page cache is bypassed, as Direct asked
	users   int  // submitted ops, other than OpClose, that are not done
	closing *Op  // the OpClose that was submitted
}

// A File is an index in the low bits and, above, how often the index was given out:
// so a handle that was closed is not taken for the next file of its index, until
// that has happened 2047 times. The first is 1, so the zero File is never valid.
const (
	fileIndexBits = 20 // more files than any process may open
	fileIndexMask = 1<<fileIndexBits - 1
	fileTurns     = 1<<(31-fileIndexBits) - 1
)

// fileTable finds open files by handle.
type fileTable struct {
	open  []*file
	turns []int32 // how often each index was given out, 1 to fileTurns
	free  []int32
}

func (t *fileTable) add(f *file) File {
	var i int32
	if n := len(t.free); n > 0 {
		i = t.free[n-1]
		t.free = t.free[:n-1]
	} else {
		i = int32(len(t.open))
		t.open = append(t.open, nil)
		t.turns = append(t.turns, 0)
	}
	t.open[i] = f
	t.turns[i] = t.turns[i]%fileTurns + 1
	return File(t.turns[i]<<fileIndexBits | i)
}

// get returns nil when h is not open.
func (t *fileTable) get(h File) *file {
	i := int(h & fileIndexMask)
	if h <= 0 || i >= len(t.open) || t.turns[i] != int32(h)>>fileIndexBits {
		return nil
	}
	return t.open[i]
}

func (t *fileTable) remove(h File) {
	i := int32(h & fileIndexMask)
	t.open[i] = nil
	t.free = append(t.free, i)
}
