package cli

import (
	"bytes"
	"io"
	"os"

	"github.com/holdfast-io/holdfast/internal/fault"
)

// sink is where data goes that was read: a stream, or a file that gets holes for zeros.
type sink struct {
	w     io.Writer
	file  *os.File // to be closed; nil for a stream
	holes bool     // it can have holes
	size  int64    // bytes so far
}

// openSink opens the file name, or takes stream for "-".
func openSink(stream io.Writer, name string) (*sink, error) {
	if name == "-" {
		return &sink{w: stream}, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, fault.Wrap("output", err)
	}
	stat, err := f.Stat()
	return &sink{w: f, file: f, holes: err == nil && stat.Mode().IsRegular()}, nil
}

// zeros is as much as is compared at once.
var zeros [64 << 10]byte

func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (s *sink) write(b []byte) (err error) {
	s.size += int64(len(b))
	if s.holes && isZero(b) {
		_, err = s.file.Seek(int64(len(b)), io.SeekCurrent)
	} else {
		_, err = s.w.Write(b)
	}
	return fault.Wrap("output", err)
}

// close completes a file.
func (s *sink) close() error {
	if s.file == nil {
		return nil
	}
	var err error
	if s.holes {
		err = s.file.Truncate(s.size) // it may end in one
	}
	return fault.Wrap("output", first(err, s.file.Close()))
}
